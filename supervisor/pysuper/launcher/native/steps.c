/* What each step does: a function per class of pysuper.steps, run in the process of the plan. */
#include "launcher.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#define UNUSED(parameter) (void)(parameter)

struct building building = {.root = -1, .home = "/", .shell = "/bin/sh"};

static bool receive_answer(char *packet, size_t size, int *descriptors, int *count)
{
	/* Nothing: the supervisor has given up, or is gone. */
	ssize_t length = must(receive_packet(building.status, packet, size - 1, descriptors, count));

	packet[length] = 0;
	return length > 0;
}

/* --- session, cgroup, namespaces --- */

static void step_setsid(struct reader *reader)
{
	UNUSED(reader);
	must(setsid());
}

static void step_new_session_keyring(struct reader *reader)
{
	UNUSED(reader);
	must_named("keyctl", syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));
}

static void write_content(const char *path, const char *content, size_t length)
{
	int file = (int)must(open(path, O_WRONLY | O_CLOEXEC));

	must(write(file, content, length));
	close(file);
}

static void step_join_cgroup(struct reader *reader)
{
	write_content(read_text(reader), "0", 1);
}

static void enter(int descriptor, uint64_t flag)
{
	must_named("setns", setns(descriptor, (int)flag));
	close(descriptor);
}

static void step_join_namespace(struct reader *reader)
{
	int position = must_find_namespace(read_text(reader));
	int descriptor = building.namespaces[position];

	if (descriptor < 0)
		fail_launcher("KeyError: '%s'", namespaces[position].name);
	building.namespaces[position] = -1;
	enter(descriptor, namespaces[position].flag);
}

static void step_enter_namespace(struct reader *reader)
{
	int position = must_find_namespace(read_text(reader));

	enter((int)must(open(read_text(reader), O_RDONLY | O_CLOEXEC)), namespaces[position].flag);
}

static void step_unshare(struct reader *reader)
{
	struct list names = read_list(reader);

	must_named("unshare", unshare((int)namespace_flags(&names)));
	free(names.items);
}

static void step_fork(struct reader *reader)
{
	int ends[2], pidfd, descriptors[MAX_DESCRIPTORS], count;
	char answer[1024], byte;
	pid_t pid;

	UNUSED(reader);
	must(pipe2(ends, O_CLOEXEC));
	pid = (pid_t)must_named("clone3", raw_clone(CLONE_PARENT, -1, &pidfd));
	if (pid == 0) {
		close(ends[1]);
		if (must(read(ends[0], &byte, 1)) == 0)
			_exit(125); /* what forked it was killed, or the supervisor has given up */
		close(ends[0]);
		must(setsid());
		return;
	}
	must(send_packet(building.status, pidfd, "{\"forked\": %d}", pid));
	/* It may have been killed. */
	if (receive_answer(answer, sizeof(answer), descriptors, &count) && write(ends[1], "g", 1) < 0)
		must(errno == EPIPE ? 0 : -1);
	_exit(0);
}

static void step_become_root(struct reader *reader)
{
	UNUSED(reader);
	must(setgroups(0, NULL));
	must(setresgid(0, 0, 0));
	must(setresuid(0, 0, 0));
	building.owner = (struct owner){0, 0};
}

static void step_set_hostname(struct reader *reader)
{
	const char *hostname = read_text(reader);
	struct utsname names;
	char shown[256];

	must(sethostname(hostname, strlen(hostname)));
	must(uname(&names));
	if (strcmp(names.nodename, hostname)) {
		python_text(shown, sizeof(shown), names.nodename);
		fail("the kernel's host name is %s afterwards", shown);
	}
}

/* Whether two texts have the same words. */
static bool same_words(const char *one, const char *other)
{
	static const char spaces[] = " \t\n\r\v\f";

	for (;;) {
		size_t length, other_length;
		one += strspn(one, spaces);
		other += strspn(other, spaces);
		length = strcspn(one, spaces);
		other_length = strcspn(other, spaces);
		if (length != other_length || memcmp(one, other, length))
			return false;
		if (!length)
			return true;
		one += length;
		other += length;
	}
}

static void write_as_owner(const char *path, const char *value)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();

	must(setegid(building.owner.gid));
	must(seteuid(building.owner.uid));
	write_content(path, value, strlen(value));
	must(seteuid(uid));
	must(setegid(gid));
}

static void step_set_sysctl(struct reader *reader)
{
	const char *name = read_text(reader), *value = read_text(reader);
	char path[512], found[4096], shown[4096];
	size_t length;
	ssize_t count;
	int file;

	length = (size_t)snprintf(path, sizeof(path), "/proc/sys/%s", name);
	if (length >= sizeof(path))
		fail_errno(ENAMETOOLONG, "%s", strerror(ENAMETOOLONG));
	if (!strchr(name, '/'))
		for (char *at = path + strlen("/proc/sys/"); *at; at++)
			*at = *at == '.' ? '/' : *at;
	/* Their files are for host root alone, test_perm() in fs/proc/proc_sysctl.c; the calls are for the namespace's. */
	if (!strcmp(path, "/proc/sys/kernel/hostname"))
		must(sethostname(value, strlen(value)));
	else if (!strcmp(path, "/proc/sys/kernel/domainname"))
		must_named("setdomainname", setdomainname(value, strlen(value)));
	else if (!strncmp(name, "net", 3))
		write_content(path, value, strlen(value));
	else
		/*
		 * Those of ipc are for the namespace's root, and capabilities do not help: ipc_permissions() in
		 * ipc/ipc_sysctl.c.
		 */
		write_as_owner(path, value);
	file = (int)must(open(path, O_RDONLY | O_CLOEXEC));
	for (length = 0; (count = must(read(file, found + length, sizeof(found) - 1 - length))) > 0;)
		length += (size_t)count;
	close(file);
	found[length] = 0;
	if (same_words(found, value))
		return;
	while (length && strchr(" \t\n", found[length - 1]))
		found[--length] = 0;
	python_text(shown, sizeof(shown), found + strspn(found, " \t\n"));
	fail("it is %s afterwards", shown);
}

static void step_loopback_up(struct reader *reader)
{
	int channel = (int)must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	struct ifreq request = {.ifr_name = "lo"};

	UNUSED(reader);
	must(ioctl(channel, SIOCGIFFLAGS, &request));
	request.ifr_flags |= IFF_UP;
	must(ioctl(channel, SIOCSIFFLAGS, &request));
	close(channel);
}

/* --- files --- */

static void step_make_directory(struct reader *reader)
{
	const char *target = read_text(reader);
	mode_t mode = (mode_t)read_integer(reader);
	int directory = resolve_or_create(target, true);

	as_owner();
	must(fchmodat(directory, ".", mode, 0));
	as_itself();
	close(directory);
}

static void step_mknod(struct reader *reader)
{
	const char *target = read_text(reader);
	unsigned int major = (unsigned int)read_integer(reader), minor = (unsigned int)read_integer(reader);
	mode_t kind = read_byte(reader) ? S_IFBLK : S_IFCHR;
	char *name;
	int parent = parent_of(target, &name);

	must(mknodat(parent, name, kind | 0666, makedev(major, minor)));
	must(fchmodat(parent, name, 0666, 0));
	must(fchownat(parent, name, building.owner.uid, building.owner.gid, 0));
	close(parent);
	free(name);
}

static void step_symlink(struct reader *reader)
{
	const char *text = read_text(reader);
	char *name;
	int parent = parent_of(read_text(reader), &name);

	as_owner();
	must(symlinkat(text, parent, name));
	as_itself();
	close(parent);
	free(name);
}

static void step_write_file(struct reader *reader)
{
	const char *path = read_text(reader);
	struct content content = read_content(reader);

	write_content(path, content.bytes, content.length);
}

/* --- limits and privileges --- */

static int resource_of(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} known[] = {
		{"as", RLIMIT_AS},	     {"core", RLIMIT_CORE},	  {"cpu", RLIMIT_CPU},
		{"data", RLIMIT_DATA},	     {"fsize", RLIMIT_FSIZE},	  {"memlock", RLIMIT_MEMLOCK},
		{"msgqueue", RLIMIT_MSGQUEUE}, {"nice", RLIMIT_NICE},	  {"nofile", RLIMIT_NOFILE},
		{"nproc", RLIMIT_NPROC},     {"rss", RLIMIT_RSS},	  {"rtprio", RLIMIT_RTPRIO},
		{"rttime", RLIMIT_RTTIME},   {"sigpending", RLIMIT_SIGPENDING}, {"stack", RLIMIT_STACK},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (!strcasecmp(known[i].name, name))
			return known[i].number;
	fail_launcher("AttributeError: there is no limit %s", name);
}

static void step_set_rlimit(struct reader *reader)
{
	const char *name = read_text(reader);
	struct rlimit wanted, found;
	int number = resource_of(name);

	wanted.rlim_cur = (rlim_t)read_integer(reader); /* -1 is RLIM_INFINITY */
	wanted.rlim_max = (rlim_t)read_integer(reader);
	if (setrlimit(number, &wanted) < 0) {
		/* As Python has it. */
		if (errno == EINVAL)
			fail("current limit exceeds maximum limit");
		if (errno == EPERM)
			fail("not allowed to raise maximum limit");
		fail_call(NULL);
	}
	must(getrlimit(number, &found));
	if (found.rlim_cur != wanted.rlim_cur || found.rlim_max != wanted.rlim_max)
		fail("the limit of %s reads back as (%lld, %lld)", name, (long long)found.rlim_cur,
		     (long long)found.rlim_max);
}

static void step_set_umask(struct reader *reader)
{
	umask((mode_t)read_integer(reader));
}

/* The bit mask of capabilities(7) by name; the number is the position. */
static uint64_t read_capabilities(struct reader *reader)
{
	static const char *const names[] = {
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
		"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
		"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
		"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
		"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
		"CHECKPOINT_RESTORE",
	};
	struct list wanted = read_list(reader);
	uint64_t mask = 0;

	for (size_t i = 0; i < wanted.length; i++) {
		size_t number = 0;
		while (number < sizeof(names) / sizeof(*names) && strcmp(names[number], wanted.items[i]))
			number++;
		if (number == sizeof(names) / sizeof(*names))
			fail_launcher("ValueError: there is no capability %s", wanted.items[i]);
		mask |= 1ULL << number;
	}
	free(wanted.items);
	return mask;
}

static void step_bound_capabilities(struct reader *reader)
{
	uint64_t kept = read_capabilities(reader);

	must_named("prctl", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	for (int number = 0; number < 64; number++) {
		if (kept >> number & 1 || prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0)
			continue;
		if (errno == EINVAL) /* past the last capability that this kernel knows */
			return;
		fail_call("prctl");
	}
}

static void step_set_capabilities(struct reader *reader)
{
	uint64_t kept = read_capabilities(reader);
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2] = {{.effective = 0}};

	if (geteuid() == 0) {
		sets[0].effective = sets[0].permitted = (uint32_t)kept;
		sets[1].effective = sets[1].permitted = (uint32_t)(kept >> 32);
	}
	must_named("capset", syscall(SYS_capset, &header, sets));
}

static bool may_setgroups(void)
{
	char content[16] = "";
	int file = (int)must(open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC));

	must(read(file, content, sizeof(content) - 1));
	close(file);
	return same_words(content, "allow");
}

static void step_set_user(struct reader *reader)
{
	const char *user = read_optional_text(reader);
	struct account account = find_account(user && *user ? user : "0");

	building.home = account.home;
	building.shell = account.shell;
	/* An unprivileged user namespace denies setgroups; then there are none to drop either, user_namespaces(7). */
	if (may_setgroups())
		must(setgroups(account.group_count, account.groups));
	free(account.groups);
	must(setresgid(account.gid, account.gid, account.gid));
	must(setresuid(account.uid, account.uid, account.uid));
}

static void step_no_new_privileges(struct reader *reader)
{
	UNUSED(reader);
	must_named("prctl", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static unsigned char digit(char character)
{
	static const char digits[] = "0123456789abcdef";
	const char *found = character ? strchr(digits, character | 0x20) : NULL;

	if (!found)
		fail_launcher("ValueError: the filter is not hexadecimal");
	return (unsigned char)(found - digits);
}

static void step_seccomp(struct reader *reader)
{
	struct content program = read_content(reader);
	size_t size = program.length / 2;
	unsigned char *bytes = malloc(size + 1);
	struct sock_fprog filter = {.len = (unsigned short)(size / sizeof(struct sock_filter))};

	if (!bytes)
		fail_errno(ENOMEM, "%s", strerror(ENOMEM));
	for (size_t i = 0; i < size; i++)
		bytes[i] = (unsigned char)(digit(program.bytes[2 * i]) << 4 | digit(program.bytes[2 * i + 1]));
	filter.filter = (struct sock_filter *)bytes;
	must_named("seccomp", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
	free(bytes);
}

struct right {
	const char *name;
	uint64_t bit;
};

static uint64_t read_rights(struct reader *reader, const struct right *known, size_t count)
{
	struct list names = read_list(reader);
	uint64_t mask = 0;

	for (size_t i = 0; i < names.length; i++) {
		size_t found = 0;
		while (found < count && strcmp(known[found].name, names.items[i]))
			found++;
		if (found == count)
			fail_launcher("KeyError: '%s'", names.items[i]);
		mask |= known[found].bit;
	}
	free(names.items);
	return mask;
}

static void step_landlock(struct reader *reader)
{
	/* By their names in linux/landlock.h: those that are used. */
	static const struct right files[] = {
		{"make_char", 1 << 6}, {"make_block", 1 << 11}, {"refer", 1 << 13}},
		scopes[] = {{"abstract_unix_socket", 1 << 0}, {"signal", 1 << 1}};
	const uint64_t refer = 1 << 13;
	struct {
		uint64_t files, network, scopes;
	} rules = {.files = refer | read_rights(reader, files, 3)};
	struct landlock_path_beneath_attr beneath = {.allowed_access = refer};
	int ruleset, root;

	rules.scopes = read_rights(reader, scopes, 2);
	/* A kernel that knows only the first fields takes the others if they are 0. */
	ruleset = (int)must_named("landlock_create_ruleset",
				  syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0));
	root = (int)must(open("/", O_PATH | O_CLOEXEC));
	/* Any rules about files refuse to move them between directories, unless that is allowed. */
	beneath.parent_fd = root;
	must_named("landlock_add_rule",
		   syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0));
	must_named("landlock_restrict_self", syscall(SYS_landlock_restrict_self, ruleset, 0));
	close(root);
	close(ruleset);
	/* Of nothing: whoever may mount, as this process still may, is told EINVAL. */
	if (mount("", "/", NULL, MS_BIND, NULL) == 0 || errno != EPERM)
		fail("the kernel lets it change mounts afterwards");
}

/* --- the rest --- */

static void step_open_terminal(struct reader *reader)
{
	struct winsize size = {.ws_row = (unsigned short)read_integer(reader)};
	int master, slave, unlocked = 0;

	size.ws_col = (unsigned short)read_integer(reader);
	master = (int)must(open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
	must(ioctl(master, TIOCSPTLCK, &unlocked));
	/* By descriptor, not by name: /dev/pts/N could have been mounted over, ioctl_tty(2). */
	slave = (int)must(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
	must(ioctl(slave, TIOCSWINSZ, &size));
	must(send_packet(building.status, master, "{\"opened\": \"terminal\"}"));
	close(master);
	for (int standard = 0; standard < 3; standard++)
		must(dup2(slave, standard));
	close(slave);
}

static void step_open_socket(struct reader *reader)
{
	int family = (int)read_integer(reader), kind = (int)read_integer(reader);
	int opened = (int)must(socket(family, kind | SOCK_CLOEXEC, 0));

	must(send_packet(building.status, opened, "{\"opened\": \"socket\"}"));
	close(opened);
}

/* The numbers of {"files": [n, ...]}; any other packet has none. */
static size_t read_files(const char *packet, int *numbers)
{
	size_t count = 0;
	int used = 0;

	if (sscanf(packet, " { \"files\" : [%n", &used) < 0 || !used)
		return 0;
	for (packet += used; count < MAX_DESCRIPTORS; packet += used) {
		used = 0;
		if (sscanf(packet, "%d %n", &numbers[count], &used) < 1)
			return count;
		count++;
		if (packet[used] == ',')
			used++;
	}
	return count;
}

size_t barrier(const char *name, struct file *taken)
{
	char answer[1024], shown[1024];
	int descriptors[MAX_DESCRIPTORS], numbers[MAX_DESCRIPTORS], came;
	size_t count;

	json_text(shown, sizeof(shown), name);
	must(send_packet(building.status, -1, "{\"barrier\": %s}", shown));
	if (!receive_answer(answer, sizeof(answer), descriptors, &came))
		_exit(125);
	if (!taken)
		return 0;
	count = read_files(answer, numbers);
	if (count > (size_t)came)
		count = (size_t)came;
	for (size_t i = 0; i < count; i++)
		taken[i] = (struct file){numbers[i], descriptors[i]};
	return count;
}

static void step_barrier(struct reader *reader)
{
	barrier(read_text(reader), NULL);
}

static void step_syscall(struct reader *reader)
{
	int64_t number = read_integer(reader), arguments[6] = {0};
	uint32_t count = read_length(reader);
	char name[64];

	for (uint32_t i = 0; i < count; i++) {
		int64_t value = read_byte(reader) ? (int64_t)(intptr_t)read_text(reader) : read_integer(reader);
		if (i < 6)
			arguments[i] = value;
	}
	read_text(reader); /* its purpose */
	snprintf(name, sizeof(name), "syscall %lld", (long long)number);
	must_named(name, syscall((long)number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
				 arguments[5]));
}

/* In the order of their names, which pysuper.launcher.native counts, too. */
const struct step steps[] = {
	{"barrier", "name:text", step_barrier},
	{"become_root", "", step_become_root},
	{"bind", "source:text target:text flags:texts idmap:flag recursive:flag", step_bind},
	{"bound_capabilities", "keep:texts", step_bound_capabilities},
	{"chroot", "", step_chroot},
	{"enter_namespace", "namespace:text path:text", step_enter_namespace},
	{"fork", "", step_fork},
	{"join_cgroup", "path:text", step_join_cgroup},
	{"join_namespace", "namespace:text", step_join_namespace},
	{"landlock", "deny:texts scope:texts", step_landlock},
	{"loopback_up", "", step_loopback_up},
	{"make_directory", "target:text mode:integer", step_make_directory},
	{"mask_path", "target:text", step_mask_path},
	{"mknod", "target:text major:integer minor:integer block:flag", step_mknod},
	{"mount", "fstype:text target:text flags:texts options:options", step_mount},
	{"new_session_keyring", "", step_new_session_keyring},
	{"no_new_privileges", "", step_no_new_privileges},
	{"open_socket", "family:integer kind:integer", step_open_socket},
	{"open_terminal", "rows:integer columns:integer", step_open_terminal},
	{"overlay", "source:text target:text idmap:flag userxattr:flag follow:flag", step_overlay},
	{"pivot_root", "", step_pivot_root},
	{"private_mounts", "", step_private_mounts},
	{"read_only_path", "target:text", step_read_only_path},
	{"root_flags", "flags:texts", step_root_flags},
	{"seccomp", "program:text", step_seccomp},
	{"set_capabilities", "keep:texts", step_set_capabilities},
	{"set_hostname", "hostname:text", step_set_hostname},
	{"set_rlimit", "resource:text soft:integer hard:integer", step_set_rlimit},
	{"set_sysctl", "name:text value:text", step_set_sysctl},
	{"set_umask", "umask:integer", step_set_umask},
	{"set_user", "user:optional", step_set_user},
	{"setsid", "", step_setsid},
	{"symlink", "text:text target:text", step_symlink},
	{"syscall", "number:integer arguments:arguments purpose:text", step_syscall},
	{"unshare", "namespaces:texts", step_unshare},
	{"write_file", "path:text content:text", step_write_file},
};
const size_t step_count = sizeof(steps) / sizeof(*steps);
