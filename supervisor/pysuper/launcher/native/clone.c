/* From a plan to its process: namespaces that it enters later, and the clone. */
#include "launcher.h"

#include <linux/sched.h>
#include <sys/wait.h>

/* As /proc/PID/ns abbreviates them, namespaces(7). */
const struct namespace namespaces[NAMESPACES] = {
	{"mnt", CLONE_NEWNS},	{"pid", CLONE_NEWPID},	 {"net", CLONE_NEWNET},	      {"uts", CLONE_NEWUTS},
	{"ipc", CLONE_NEWIPC},	{"user", CLONE_NEWUSER}, {"cgroup", CLONE_NEWCGROUP}, {"time", CLONE_NEWTIME},
};

int must_find_namespace(const char *name)
{
	for (int i = 0; i < NAMESPACES; i++)
		if (!strcmp(namespaces[i].name, name))
			return i;
	fail_launcher("KeyError: '%s'", name);
}

uint64_t namespace_flags(const struct list *names)
{
	uint64_t flags = 0;

	for (size_t i = 0; i < names->length; i++)
		flags |= namespaces[must_find_namespace(names->items[i])].flag;
	return flags;
}

/* --- what a plan says before its steps --- */

static struct id_line *read_lines(struct reader *reader, size_t *count)
{
	struct id_line *lines;

	*count = read_length(reader);
	/* The kernel takes 340, user_namespaces(7). */
	if (*count > 4096 || !(lines = calloc(*count + 1, sizeof(*lines))))
		fail_launcher("ValueError: too many ids");
	for (size_t i = 0; i < *count; i++) {
		lines[i].inside = read_integer(reader);
		lines[i].outside = read_integer(reader);
		lines[i].count = read_integer(reader);
	}
	return lines;
}

static struct id_map read_id_map(struct reader *reader)
{
	struct id_map ids = {.privileged = read_byte(reader)};

	ids.helped = read_byte(reader);
	ids.uids = read_lines(reader, &ids.uid_lines);
	ids.gids = read_lines(reader, &ids.gid_lines);
	return ids;
}

struct plan read_plan(struct reader reader)
{
	struct plan plan = {.file_count = read_length(&reader)};

	if (plan.file_count > MAX_DESCRIPTORS)
		fail_launcher("ValueError: too many files");
	for (size_t i = 0; i < plan.file_count; i++)
		plan.files[i] = (int)read_integer(&reader);
	plan.given = read_list(&reader);
	plan.clone = read_list(&reader);
	plan.has_holder = read_byte(&reader);
	if (plan.has_holder) {
		plan.holder = read_list(&reader);
		plan.holder_ids = read_id_map(&reader);
	}
	plan.has_ids = read_byte(&reader);
	if (plan.has_ids)
		plan.ids = read_id_map(&reader);
	plan.cgroup = read_optional_text(&reader);
	plan.trace = read_byte(&reader);
	plan.has_command = read_byte(&reader);
	plan.rest = reader;
	return plan;
}

void free_plan(struct plan *plan)
{
	free(plan->given.items);
	free(plan->clone.items);
	free(plan->holder.items);
	free(plan->holder_ids.uids);
	free(plan->holder_ids.gids);
	free(plan->ids.uids);
	free(plan->ids.gids);
}

struct command read_command(struct reader *reader)
{
	struct command command = {.argv = read_list(reader)};

	command.environment = read_list(reader);
	command.working_dir = read_text(reader);
	command.init = read_byte(reader);
	command.terminal = read_byte(reader);
	return command;
}

/* --- files of the kernel --- */

int get_in_trouble(struct trouble *trouble, const char *subject)
{
	int number = errno;

	if (trouble) {
		trouble->number = number;
		snprintf(trouble->text, sizeof(trouble->text), "%s%s%s", subject ? subject : "", subject ? ": " : "",
			 strerror(number));
	}
	return -1;
}

/* Write in one go to a file that exists; never create one. */
int write_file(const char *path, const char *content, size_t length, struct trouble *trouble)
{
	int file = open(path, O_WRONLY | O_CLOEXEC), result = 0;

	if (file < 0)
		return get_in_trouble(trouble, NULL);
	if (write(file, content, length) < 0)
		result = get_in_trouble(trouble, path);
	close(file); /* which leaves errno as it is, if it works */
	return result;
}

static int write_lines(const char *process, const char *name, const struct id_line *lines, size_t count,
		       struct trouble *trouble)
{
	char path[64], content[4096]; /* the kernel takes less than a page */
	size_t length = 0;

	for (size_t i = 0; i < count && length < sizeof(content); i++)
		length += (size_t)snprintf(content + length, sizeof(content) - length, "%lld %lld %lld\n",
					   (long long)lines[i].inside, (long long)lines[i].outside,
					   (long long)lines[i].count);
	snprintf(path, sizeof(path), "/proc/%s/%s", process, name);
	if (length >= sizeof(content)) {
		errno = EINVAL;
		return get_in_trouble(trouble, path);
	}
	return write_file(path, content, length, trouble);
}

/* The maps of a user namespace, user_namespaces(7); `process` is the first one in it: a pid, or "self". */
int write_id_maps(const char *process, const struct id_map *ids, struct trouble *trouble)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/setgroups", process);
	if (!ids->privileged && write_file(path, "deny", 4, trouble) < 0)
		return -1;
	if (write_lines(process, "uid_map", ids->uids, ids->uid_lines, trouble) < 0)
		return -1;
	return write_lines(process, "gid_map", ids->gids, ids->gid_lines, trouble);
}

/* --- clones --- */

/*
 * Fork with namespaces, clone3(2). `cgroup` is a directory of cgroup v2 to be born in, or -1; `pidfd` may be NULL.
 *
 * The bare call: the C library has no hooks that one thread would need.
 */
pid_t raw_clone(uint64_t flags, int cgroup, int *pidfd)
{
	struct clone_args arguments = {.flags = flags};

	if (pidfd) {
		arguments.flags |= CLONE_PIDFD;
		arguments.pidfd = (uint64_t)(uintptr_t)pidfd;
	}
	if (cgroup >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = (uint64_t)cgroup;
	}
	/* With CLONE_PARENT the kernel takes the exit signal from the caller and refuses another one. */
	arguments.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD;
	return (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
}

static int open_namespaces(pid_t pid, const struct list *names, int held[NAMESPACES], struct trouble *trouble)
{
	char path[64];

	for (size_t i = 0; i < names->length; i++) {
		snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, names->items[i]);
		int descriptor = open(path, O_RDONLY | O_CLOEXEC);
		if (descriptor < 0)
			return get_in_trouble(trouble, NULL);
		held[must_find_namespace(names->items[i])] = descriptor;
	}
	return 0;
}

/*
 * The holder: in new namespaces until it is killed, or the launcher dies.
 *
 * It shares our memory and descriptors, since to copy them would take longer the more containers there are; so it has
 * to leave both as they are.
 */
static int hold(void *launcher)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == *(pid_t *)launcher)
		pause();
	return 0;
}

int hold_namespaces(const struct plan *plan, int held[NAMESPACES], struct trouble *trouble)
{
	static char stack[16384] __attribute__((aligned(16)));
	pid_t self = getpid(), pid;
	char process[16];
	int result;

	pid = clone(hold, stack + sizeof(stack), CLONE_VM | CLONE_FILES | SIGCHLD | (int)namespace_flags(&plan->holder),
		    &self);
	if (pid < 0)
		return get_in_trouble(trouble, "clone");
	snprintf(process, sizeof(process), "%d", pid);
	result = write_id_maps(process, &plan->holder_ids, trouble);
	if (result == 0)
		result = open_namespaces(pid, &plan->holder, held, trouble);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return result;
}

/* The container's root, as its first process must call it while it still is host root. */
static struct owner owner_of(const struct plan *plan)
{
	if (!plan->has_holder || !plan->holder_ids.uid_lines || !plan->holder_ids.gid_lines)
		return (struct owner){0, 0};
	return (struct owner){(uid_t)plan->holder_ids.uids[0].outside, (gid_t)plan->holder_ids.gids[0].outside};
}

/* As a child of the supervisor. */
pid_t clone_process(const struct plan *plan, int status, const struct file *files, size_t count,
		    int given[NAMESPACES], int *pidfd, int *gate, struct trouble *trouble)
{
	int cgroup = -1, ends[2];
	char byte;
	pid_t pid;

	if (plan->cgroup) {
		cgroup = open(plan->cgroup, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (cgroup < 0)
			return get_in_trouble(trouble, NULL);
	}
	if (pipe2(ends, O_CLOEXEC) < 0) {
		get_in_trouble(trouble, NULL);
		if (cgroup >= 0)
			close(cgroup);
		return -1;
	}
	pid = raw_clone(CLONE_PARENT | namespace_flags(&plan->clone), cgroup, pidfd);
	if (pid == 0) {
		close(ends[1]);
		if (read(ends[0], &byte, 1) != 1) {
			/* The launcher has died; who sends this is told by the kernel, if it was not before. */
			send_packet(status, -1, "{\"orphaned\": true}");
			if (recv(status, &byte, 1, 0) <= 0)
				_exit(125);
		}
		run_plan(plan, status, files, count, given, owner_of(plan));
	}
	if (pid < 0)
		get_in_trouble(trouble, "clone3");
	close(ends[0]);
	if (cgroup >= 0)
		close(cgroup);
	if (pid < 0)
		close(ends[1]);
	else
		*gate = ends[1];
	return pid;
}
