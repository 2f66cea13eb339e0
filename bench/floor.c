/*
 * What a container costs if nothing is spent on anything but the kernel: the floor that others are compared with.
 *
 *     floor [options] -- COMMAND [ARGUMENT...]
 *
 *     --count N        containers, one after the other (1)
 *     --jobs N         so many of them at once (1)
 *     --times FILE     write "wall NS" and "cpu NS": from the first start to the last exit, and of all processes
 *     --spare          have the next container wait, finished, and let it run when wait4(2) has returned; clean up, and
 *                      make the next one, 10 ms later. --jobs is not used then, and a signal may end a container
 *     --known          write "known NS" to the standard output when wait4(2) has returned, before the clean-up
 *     --level LEVEL    plain: no isolation, posix_spawn(3); "%n" in an argument becomes the number of the start, so
 *                          that this drives other programs, too
 *                      basic: new pid, mnt, uts, ipc and net namespaces, pivot_root, /proc, one cgroup with pids.max
 *                      full: what pysuper does by default, in the same order, see `build_full`; but no receipts are
 *                          taken, and the command is PID 1
 *     --root DIR       the root file system
 *     --cgroup DIR     of v1: a cgroup is made in here, and joined; may be repeated. One whose path has "pids" in it
 *                      gets pids.max, and one with "devices" in it the rules of pysuper's
 *     --cgroup2 DIR    of v2: a cgroup with pids.max is made in here, and the container is born in it
 *     --seccomp FILE   full: the program, an array of struct sock_filter
 *     --landlock MASK  full: the rights to files that are denied, LANDLOCK_ACCESS_FS_*, in hexadecimal
 *     --keep MASK      full: the capabilities, in hexadecimal
 *     --read-only PATH, --mask PATH
 *                      full: below /proc and /sys; may be repeated
 *
 * One thread, which waits for whatever ends first. Any failure ends the program: there are no figures of half a floor.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#define MOST 64
#define IDS 65536
/* Below what pysuper takes, and above what distributions give to users. */
#define FIRST_ID 0x18000000L

enum level { PLAIN, BASIC, FULL };

struct list {
	const char *items[MOST];
	int length;
};

static enum level level = BASIC;
static const char *root, *cgroup2;
static struct list cgroups, read_only, masked;
static struct sock_fprog seccomp_program;
static uint64_t kept, denied;
static char **command;
static int known;
/* A byte in here lets a spare go on. */
static int gate[2] = {-1, -1};
static char *environment[] = {
	"HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", NULL,
};
extern char **environ;

/* One that runs, in the order of their starts. */
struct container {
	pid_t pid; /* 0 is a free slot */
	int number;
};

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	_exit(125);
}

/* For calls of which none may fail; the text of the call is the message. */
#define must(call)                       \
	({                               \
		long result_ = (call);   \
		if (result_ < 0)         \
			die(#call);      \
		result_;                 \
	})

static void append(struct list *list, const char *item)
{
	if (list->length == MOST) {
		errno = E2BIG;
		die(item);
	}
	list->items[list->length++] = item;
}

static void write_file(const char *path, const char *content)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);

	if (file < 0 || write(file, content, strlen(content)) < 0)
		die(path);
	close(file);
}

/* --- cgroups --- */

static void cgroup_path(char *path, const char *parent, int number)
{
	snprintf(path, PATH_MAX, "%s/pysuper-floor.%d.%d", parent, getpid(), number);
}

static void make_cgroup(const char *parent, int number)
{
	static const char *const devices[] = {"c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",   "c 1:9 rwm",
					      "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", NULL};
	char path[PATH_MAX], file[PATH_MAX + 32];

	cgroup_path(path, parent, number);
	if (mkdir(path, 0755) < 0)
		die(path);
	if (parent == cgroup2 || strstr(parent, "pids")) {
		snprintf(file, sizeof(file), "%s/pids.max", path);
		write_file(file, "1024");
	}
	if (parent != cgroup2 && strstr(parent, "devices")) {
		snprintf(file, sizeof(file), "%s/devices.deny", path);
		write_file(file, "a");
		snprintf(file, sizeof(file), "%s/devices.allow", path);
		for (int i = 0; devices[i]; i++)
			write_file(file, devices[i]);
	}
}

/* After its last process has been reaped a cgroup may still be busy, for less than a millisecond. */
static void remove_cgroup(const char *parent, int number)
{
	const struct timespec pause = {.tv_nsec = 50000};
	char path[PATH_MAX];

	cgroup_path(path, parent, number);
	for (int attempt = 0; rmdir(path) < 0; attempt++) {
		if (errno != EBUSY || attempt > 20000)
			die(path);
		nanosleep(&pause, NULL);
	}
}

static void join_cgroups(char (*tasks)[PATH_MAX])
{
	for (int i = 0; i < cgroups.length; i++)
		write_file(tasks[i], "0");
}

/* --- mounts, on descriptors --- */

static int at(int directory, const char *path)
{
	while (*path == '/')
		path++;
	return openat(directory, path, O_PATH | O_CLOEXEC | O_NOFOLLOW);
}

static void attach(int mount, int target)
{
	must(syscall(SYS_move_mount, mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
	close(target);
}

/* `options` are pairs of key and value, the last key NULL; a value that is NULL makes its key a flag. */
static void mount_new(const char *type, int target, unsigned int attributes, const char *const *options)
{
	int context = must(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
	int mount;

	must(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", type, 0));
	for (; options && options[0]; options += 2)
		must(syscall(SYS_fsconfig, context, options[1] ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, options[0],
			     options[1], 0));
	must(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	mount = must(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes));
	close(context);
	attach(mount, must(target));
	close(mount);
}

static void change_root(int new_root)
{
	must(fchdir(new_root));
	must(syscall(SYS_pivot_root, ".", "."));
	must(umount2(".", MNT_DETACH));
	must(chdir("/"));
}

/* --- the levels, in the container's process --- */

static void build_basic(char (*tasks)[PATH_MAX])
{
	join_cgroups(tasks);
	must(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
	must(mount(root, root, NULL, MS_BIND, NULL));
	must(chdir(root));
	must(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
	change_root(must(open(".", O_PATH | O_CLOEXEC)));
}

static void loopback_up(void)
{
	int channel = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	struct ifreq request = {.ifr_name = "lo"};

	must(ioctl(channel, SIOCGIFFLAGS, &request));
	request.ifr_flags |= IFF_UP;
	must(ioctl(channel, SIOCSIFFLAGS, &request));
	close(channel);
}

static void fs_ids(long uid, long gid)
{
	setfsgid(gid);
	setfsuid(uid);
}

static void private_dev(int new_root, long owner)
{
	static const struct {
		const char *name;
		int major, minor;
	} nodes[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
	static const char *const links[][2] = {{"/proc/self/fd", "fd"},
					       {"/proc/self/fd/0", "stdin"},
					       {"/proc/self/fd/1", "stdout"},
					       {"/proc/self/fd/2", "stderr"},
					       {"pts/ptmx", "ptmx"}};
	static const char *const directories[] = {"pts", "shm", "mqueue"};
	char id[24], tty[24];
	const char *const dev_options[] = {"mode", "0755", "uid", id, "gid", id, NULL};
	const char *const pts_options[] = {"newinstance", NULL, "ptmxmode", "0666", "mode", "0620", "gid", tty, NULL};
	const char *const shm_options[] = {"mode", "1777", "uid", id, "gid", id, "size", "64m", NULL};
	const unsigned int strict = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	int dev;

	snprintf(id, sizeof(id), "%ld", owner);
	snprintf(tty, sizeof(tty), "%ld", owner + 5);
	mount_new("tmpfs", at(new_root, "dev"), MOUNT_ATTR_NOSUID, dev_options);
	dev = must(at(new_root, "dev"));
	for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
		must(mknodat(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
		must(fchmodat(dev, nodes[i].name, 0666, 0));
		must(fchownat(dev, nodes[i].name, owner, owner, 0));
	}
	fs_ids(owner, owner);
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		must(symlinkat(links[i][0], dev, links[i][1]));
	for (size_t i = 0; i < sizeof(directories) / sizeof(directories[0]); i++)
		must(mkdirat(dev, directories[i], 0755));
	fs_ids(0, 0);
	mount_new("devpts", at(dev, "pts"), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, pts_options);
	mount_new("tmpfs", at(dev, "shm"), strict, shm_options);
	mount_new("mqueue", at(dev, "mqueue"), strict, NULL);
	close(dev);
}

/* One empty file system is over all directories. */
static void mask(int new_root, const char *path)
{
	static const char *const options[] = {"size", "4k", "mode", "0", NULL};
	static const char *hidden;
	int target = at(new_root, path), like, cover;
	struct stat status;
	int directory;

	if (target < 0 && errno == ENOENT)
		return;
	must(fstat(must(target), &status));
	directory = S_ISDIR(status.st_mode);
	if (directory && !hidden) {
		mount_new("tmpfs", target, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, options);
		hidden = path;
		return;
	}
	like = must(at(new_root, directory ? hidden : "dev/null"));
	cover = must(syscall(SYS_open_tree, like, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
	attach(cover, target);
	close(cover);
	close(like);
}

static void make_read_only(int new_root, const char *path)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
	int target = at(new_root, path), tree;

	if (target < 0 && errno == ENOENT)
		return;
	tree = must(syscall(SYS_open_tree, must(target), "",
			    OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE));
	must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof(attributes)));
	attach(tree, target);
	close(tree);
}

/* Any rules about files refuse changes of mounts, and to move files between directories, unless that is allowed. */
static void restrict_with_landlock(void)
{
	/* The first version of the interface that is of use has this alone; newer ones take it, too. */
	const struct {
		uint64_t files;
	} attributes = {denied | LANDLOCK_ACCESS_FS_REFER};
	struct landlock_path_beneath_attr rule = {.allowed_access = LANDLOCK_ACCESS_FS_REFER};
	int rules = must(syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0));

	rule.parent_fd = must(open("/", O_PATH | O_CLOEXEC));
	must(syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0));
	must(syscall(SYS_landlock_restrict_self, rules, 0));
	close(rule.parent_fd);
	close(rules);
}

static void limit_privileges(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2] = {
		{.effective = kept, .permitted = kept},
		{.effective = kept >> 32, .permitted = kept >> 32},
	};

	if (denied)
		restrict_with_landlock();
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	for (int number = 0; number < 64; number++)
		if (!(kept >> number & 1) && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0) {
			if (errno != EINVAL)
				die("PR_CAPBSET_DROP");
			break; /* past the last capability that this kernel knows */
		}
	must(syscall(SYS_capset, &header, sets));
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &seccomp_program));
}

struct namespaces {
	int user, net, uts, ipc;
};

static void enter(int descriptor, int type)
{
	must(setns(descriptor, type));
	close(descriptor);
}

static void build_full(char (*tasks)[PATH_MAX], struct namespaces given, long owner)
{
	const unsigned int strict = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	const struct rlimit files = {1024, 1024};
	struct mount_attr slave = {.propagation = MS_SLAVE};
	struct mount_attr idmap = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = given.user};
	int new_root;

	must(setsid());
	must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));
	must(syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &slave, sizeof(slave)));
	join_cgroups(tasks);
	enter(given.net, CLONE_NEWNET);
	enter(given.uts, CLONE_NEWUTS);
	enter(given.ipc, CLONE_NEWIPC);
	loopback_up();
	must(sethostname("floor", 5));

	new_root = must(syscall(SYS_open_tree, AT_FDCWD, root, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
	must(syscall(SYS_mount_setattr, new_root, "", AT_EMPTY_PATH, &idmap, sizeof(idmap)));
	attach(new_root, must(open("/", O_PATH | O_CLOEXEC)));
	mount_new("proc", at(new_root, "proc"), strict, NULL);
	mount_new("sysfs", at(new_root, "sys"), strict | MOUNT_ATTR_RDONLY, NULL);
	private_dev(new_root, owner);
	for (int i = 0; i < read_only.length; i++)
		make_read_only(new_root, read_only.items[i]);
	for (int i = 0; i < masked.length; i++)
		mask(new_root, masked.items[i]);
	change_root(new_root);

	enter(given.user, CLONE_NEWUSER);
	must(setgroups(0, NULL));
	must(setresgid(0, 0, 0));
	must(setresuid(0, 0, 0));
	must(unshare(CLONE_NEWCGROUP | CLONE_NEWNS));
	must(setrlimit(RLIMIT_NOFILE, &files));
	umask(022);
	limit_privileges();
}

/* --- the launcher's side --- */

static pid_t clone_into(uint64_t flags, int cgroup)
{
	struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};

	if (cgroup >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = cgroup;
	}
	return must(syscall(SYS_clone3, &arguments, sizeof(arguments)));
}

static int namespace_of(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	return must(open(path, O_RDONLY | O_CLOEXEC));
}

/* A process that holds namespaces, owned by a user namespace with ids of their own, until they are opened. */
static struct namespaces hold_namespaces(long owner)
{
	struct namespaces held;
	char path[64], map[64];
	pid_t pid = clone_into(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC, -1);

	if (pid == 0)
		for (;;)
			pause();
	snprintf(map, sizeof(map), "0 %ld %d\n", owner, IDS);
	snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	write_file(path, map);
	snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	write_file(path, map);
	held.user = namespace_of(pid, "user");
	held.net = namespace_of(pid, "net");
	held.uts = namespace_of(pid, "uts");
	held.ipc = namespace_of(pid, "ipc");
	must(kill(pid, SIGKILL));
	must(waitpid(pid, NULL, 0));
	return held;
}

static pid_t start_container(int number)
{
	static char tasks[MOST][PATH_MAX];
	char path[PATH_MAX];
	long owner = FIRST_ID + (number % 1024) * (long)IDS;
	struct namespaces held = {-1, -1, -1, -1};
	int born_in = -1;
	pid_t pid;

	for (int i = 0; i < cgroups.length; i++) {
		make_cgroup(cgroups.items[i], number);
		cgroup_path(path, cgroups.items[i], number);
		must(snprintf(tasks[i], PATH_MAX, "%.*s/tasks", PATH_MAX - 8, path));
	}
	if (cgroup2) {
		make_cgroup(cgroup2, number);
		cgroup_path(path, cgroup2, number);
		born_in = must(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
	}
	if (level == FULL) {
		held = hold_namespaces(owner);
		pid = clone_into(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWTIME, born_in);
	} else {
		pid = clone_into(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET, born_in);
	}
	if (pid == 0) {
		if (level == FULL)
			build_full(tasks, held, owner);
		else
			build_basic(tasks);
		if (gate[0] >= 0)
			must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
		if (gate[0] >= 0 && number > 0)
			must(read(gate[0], &(char){0}, 1));
		execve(command[0], command, environment);
		die(command[0]);
	}
	if (born_in >= 0)
		close(born_in);
	if (level == FULL) {
		close(held.user);
		close(held.net);
		close(held.uts);
		close(held.ipc);
	}
	return pid;
}

/* A program, which may be another one that starts containers. */
static pid_t start_plain(int number)
{
	char *arguments[MOST + 1] = {NULL};
	pid_t pid;

	for (int i = 0; command[i] && i < MOST; i++) {
		char *place = strstr(command[i], "%n");
		if (!place)
			arguments[i] = command[i];
		else if (asprintf(&arguments[i], "%.*s%d-%d%s", (int)(place - command[i]), command[i], getpid(), number,
				  place + 2) < 0)
			die("asprintf");
	}
	errno = posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ);
	if (errno)
		die(arguments[0]);
	for (int i = 0; command[i] && i < MOST; i++)
		if (arguments[i] != command[i])
			free(arguments[i]);
	return pid;
}

static void end(int number)
{
	for (int i = 0; i < cgroups.length; i++)
		remove_cgroup(cgroups.items[i], number);
	if (cgroup2)
		remove_cgroup(cgroup2, number);
}

static void read_seccomp(const char *path)
{
	static struct sock_filter program[4096];
	int file = must(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t length = must(read(file, program, sizeof(program)));

	close(file);
	seccomp_program.len = length / sizeof(program[0]);
	seccomp_program.filter = program;
}

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static long cpu(int whose)
{
	struct rusage usage;

	getrusage(whose, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000L +
	       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000L;
}

static void release_spare(void)
{
	const struct timespec pause = {.tv_nsec = 10000000};

	if (gate[1] < 0)
		return;
	must(write(gate[1], "", 1));
	nanosleep(&pause, NULL); /* what comes next would be in its way */
}

/* Wait for one container, which is over with all that it had; other processes are orphans of a program. */
static int wait_for_one(struct container *running, int jobs)
{
	int status;
	pid_t pid = must(waitpid(-1, &status, 0));

	release_spare();
	if (known)
		printf("known %ld\n", now());
	for (int slot = 0; slot < jobs; slot++)
		if (running[slot].pid == pid) {
			end(running[slot].number);
			running[slot].pid = 0;
			if (gate[0] < 0 && (!WIFEXITED(status) || WEXITSTATUS(status))) {
				fprintf(stderr, "floor: %s ended with wait status %d\n", command[0], status);
				exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
			}
			return slot;
		}
	return -1;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"count", required_argument, NULL, 'n'},    {"jobs", required_argument, NULL, 'j'},
		{"times", required_argument, NULL, 't'},    {"level", required_argument, NULL, 'l'},
		{"root", required_argument, NULL, 'r'},     {"cgroup", required_argument, NULL, 'c'},
		{"cgroup2", required_argument, NULL, '2'},  {"seccomp", required_argument, NULL, 's'},
		{"keep", required_argument, NULL, 'k'},     {"read-only", required_argument, NULL, 'o'},
		{"mask", required_argument, NULL, 'm'},     {"landlock", required_argument, NULL, 'd'},
		{"known", no_argument, NULL, 'w'},          {"spare", no_argument, NULL, 'p'},
		{NULL, 0, NULL, 0},
	};
	const char *times = NULL;
	int count = 1, jobs = 1, option, started = 0, ended = 0;
	struct container *running;
	long began, wall;

	while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1)
		switch (option) {
		case 'n': count = atoi(optarg); break;
		case 'j': jobs = atoi(optarg); break;
		case 't': times = optarg; break;
		case 'w': known = 1; break;
		case 'p': must(pipe2(gate, O_CLOEXEC)); jobs = 2; break;
		case 'l': level = !strcmp(optarg, "plain") ? PLAIN : !strcmp(optarg, "full") ? FULL : BASIC; break;
		case 'r': root = optarg; break;
		case 'c': append(&cgroups, optarg); break;
		case '2': cgroup2 = optarg; break;
		case 's': read_seccomp(optarg); break;
		case 'k': kept = strtoull(optarg, NULL, 16); break;
		case 'd': denied = strtoull(optarg, NULL, 16); break;
		case 'o': append(&read_only, optarg); break;
		case 'm': append(&masked, optarg); break;
		default: return 125;
		}
	command = argv + optind;
	if (!*command || count < 1 || jobs < 1 || (level != PLAIN && !root)) {
		fprintf(stderr, "floor: wants a command, --root, and at least 1 of --count and --jobs\n");
		return 125;
	}
	/* What a program leaves behind is waited for, and its CPU time counted. */
	must(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	must(syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC));
	running = calloc(jobs, sizeof(*running));
	began = now();
	for (int slot = 0; ended < count;) {
		if (started < count && started - ended < jobs) {
			while (running[slot].pid)
				slot = (slot + 1) % jobs;
			running[slot].number = started++;
			running[slot].pid = level == PLAIN ? start_plain(started) : start_container(started - 1);
		} else if (wait_for_one(running, jobs) >= 0) {
			ended++;
		}
	}
	wall = now() - began;
	while (waitpid(-1, NULL, 0) > 0)
		;
	if (times) {
		FILE *file = fopen(times, "w");
		if (!file)
			die(times);
		fprintf(file, "wall %ld\ncpu %ld\n", wall, cpu(RUSAGE_SELF) + cpu(RUSAGE_CHILDREN));
		fclose(file);
	}
	return 0;
}
