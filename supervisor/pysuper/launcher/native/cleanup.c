/* What is running, and what would be left behind: enough to clean up without the supervisor. */
#include "launcher.h"

#include <dirent.h>
#include <search.h>
#include <time.h>

/* Seconds that the clean-up after a dead supervisor may take. */
#define CLEANUP_BOUND 5.0

struct trace {
	char *kind, *path;
};

/* A tree, tsearch(3): there are half a dozen for each container. */
static void *traces;
static int *pidfds;
static size_t pidfd_count;

static void *grown(void *array, size_t count, size_t size)
{
	/* Powers of two, so that most calls change nothing. */
	if (count & (count - 1))
		return array;
	array = realloc(array, (count ? 2 * count : 1) * size);
	if (!array)
		_exit(1); /* another launcher takes over */
	return array;
}

static int compare(const void *one, const void *other)
{
	const struct trace *a = one, *b = other;
	int order = strcmp(a->path, b->path);

	return order ? order : strcmp(a->kind, b->kind);
}

static void free_trace(struct trace *trace)
{
	free(trace->kind);
	free(trace->path);
	free(trace);
}

/* A launcher that took over may be told twice, or be told to forget what the one before it knew. */
void remember_trace(const char *kind, const char *path)
{
	struct trace *trace = malloc(sizeof(*trace)), **known;

	if (!trace)
		_exit(1);
	*trace = (struct trace){strdup(kind), strdup(path)};
	if (!trace->kind || !trace->path || !(known = tsearch(trace, &traces, compare)))
		_exit(1);
	if (*known != trace)
		free_trace(trace);
}

void forget_trace(const char *kind, const char *path)
{
	const struct trace key = {(char *)kind, (char *)path};
	struct trace **known = tfind(&key, &traces, compare), *trace;

	if (!known)
		return;
	trace = *known;
	tdelete(trace, &traces, compare);
	free_trace(trace);
}

void remember_process(int pidfd)
{
	pidfds = grown(pidfds, pidfd_count, sizeof(*pidfds));
	pidfds[pidfd_count++] = pidfd;
}

void forget_process(int pidfd)
{
	for (size_t i = 0; i < pidfd_count; i++)
		if (pidfds[i] == pidfd) {
			pidfds[i] = pidfds[--pidfd_count];
			close(pidfd);
			return;
		}
}

/* All of these: 0, or -1 and errno. */

static int remove_tree(int directory, const char *name)
{
	struct stat found;
	struct dirent *entry;
	DIR *content;
	bool failed = false;
	int descriptor, number;

	if (fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	if (!S_ISDIR(found.st_mode))
		return unlinkat(directory, name, 0);
	/* Whose mode may forbid its owner to remove what is in it. */
	if (geteuid() != 0 && fchmodat(directory, name, 0700, 0) < 0)
		return -1;
	descriptor = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (descriptor < 0 || !(content = fdopendir(descriptor)))
		return -1;
	while (!failed && (entry = readdir(content)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			failed = remove_tree(descriptor, entry->d_name) < 0;
	number = errno;
	closedir(content);
	errno = number;
	return failed ? -1 : unlinkat(directory, name, AT_REMOVEDIR);
}

static int kill_cgroup(const char *path)
{
	char file[4200];
	FILE *processes;
	long pid;

	snprintf(file, sizeof(file), "%s/cgroup.kill", path);
	if (access(file, F_OK) == 0)
		return write_file(file, "1", 1, NULL);
	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	processes = fopen(file, "re");
	if (!processes)
		return -1;
	while (fscanf(processes, "%ld", &pid) == 1)
		if (pid > 0)
			kill((pid_t)pid, SIGKILL);
	fclose(processes);
	/* A frozen v1 cgroup holds SIGKILL back. */
	snprintf(file, sizeof(file), "%s/freezer.state", path);
	return access(file, F_OK) == 0 ? write_file(file, "THAWED", 6, NULL) : 0;
}

/* Whether it is gone. */
static bool remove_trace(const struct trace *trace)
{
	int failed;

	if (!strcmp(trace->kind, "cgroup"))
		failed = kill_cgroup(trace->path) < 0 || rmdir(trace->path) < 0;
	else
		failed = remove_tree(AT_FDCWD, trace->path) < 0;
	return !failed || errno == ENOENT;
}

static struct trace **left;
static size_t left_count;

static void list_trace(const void *node, VISIT visit, int depth)
{
	(void)depth;
	if (visit != postorder && visit != leaf) /* each once */
		return;
	left = grown(left, left_count, sizeof(struct trace *));
	left[left_count++] = *(struct trace *const *)node;
}

/* The supervisor is gone: kill its containers and remove what it had made on the host. */
void clean_up(void)
{
	const struct timespec pause = {.tv_nsec = 2000000};
	double deadline = monotonic() + CLEANUP_BOUND;

	for (size_t i = 0; i < pidfd_count; i++)
		syscall(SYS_pidfd_send_signal, pidfds[i], SIGKILL, NULL, 0);
	twalk(traces, list_trace);
	while (left_count && monotonic() < deadline) {
		for (size_t i = 0; i < left_count;)
			if (remove_trace(left[i]))
				left[i] = left[--left_count];
			else
				i++;
		if (left_count)
			nanosleep(&pause, NULL);
	}
}
