/* What is running, and what would be left behind: enough to clean up without the supervisor. */
#include "launcher.h"

#include <dirent.h>
#include <sys/mman.h>
#include <time.h>

/* Seconds that the clean-up after a dead supervisor may take. */
#define CLEANUP_BOUND 5.0

/*
 * Traces are found by their hash, as there are half a dozen for each container. They are in memory that no clone has:
 * an init would keep all of its pages as they were when it was forked, which adds up to more than all else of it.
 */
struct trace {
	struct trace *next; /* of the same hash, or free */
	size_t size;
	char kind[16], path[];
};

enum { SLOT = 256, SLOTS = 256, HASHES = 4096 };
static struct trace **traces, *free_slots;
static size_t trace_count;
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

static void *memory_of_ours(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED || madvise(memory, size, MADV_DONTFORK) < 0)
		_exit(1); /* another launcher takes over */
	return memory;
}

static void free_trace(struct trace *trace)
{
	if (trace->size > SLOT) {
		munmap(trace, trace->size);
		return;
	}
	trace->next = free_slots;
	free_slots = trace;
}

static struct trace *new_trace(const char *kind, const char *path)
{
	size_t size = sizeof(struct trace) + strlen(path) + 1;
	struct trace *trace;

	if (size <= SLOT && !free_slots) {
		char *slots = memory_of_ours(SLOTS * SLOT);
		for (int i = 0; i < SLOTS; i++) {
			trace = (struct trace *)(slots + i * SLOT);
			trace->size = SLOT;
			free_trace(trace);
		}
	}
	if (size <= SLOT) {
		trace = free_slots;
		free_slots = trace->next;
	} else {
		trace = memory_of_ours(size);
		trace->size = size;
	}
	snprintf(trace->kind, sizeof(trace->kind), "%s", kind);
	strcpy(trace->path, path);
	return trace;
}

/* Where it is, or would be, linked to. */
static struct trace **find_trace(const char *kind, const char *path)
{
	uint32_t hash = 2166136261u; /* FNV-1a */
	struct trace **at;

	for (const char *c = path; *c; c++)
		hash = (hash ^ (uint8_t)*c) * 16777619u;
	if (!traces)
		traces = memory_of_ours(HASHES * sizeof(struct trace *));
	at = &traces[hash % HASHES];
	while (*at && (strcmp((*at)->path, path) || strcmp((*at)->kind, kind)))
		at = &(*at)->next;
	return at;
}

/* A launcher that took over may be told twice, or be told to forget what the one before it knew. */
void remember_trace(const char *kind, const char *path)
{
	struct trace **at = find_trace(kind, path);

	if (*at)
		return;
	*at = new_trace(kind, path);
	(*at)->next = NULL;
	trace_count++;
}

static void unlink_trace(struct trace **at)
{
	struct trace *trace = *at;

	*at = trace->next;
	free_trace(trace);
	trace_count--;
}

void forget_trace(const char *kind, const char *path)
{
	struct trace **at = find_trace(kind, path);

	if (*at)
		unlink_trace(at);
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

/* The supervisor is gone: kill its containers and remove what it had made on the host. */
void clean_up(void)
{
	const struct timespec pause = {.tv_nsec = 2000000};
	double deadline = monotonic() + CLEANUP_BOUND;

	for (size_t i = 0; i < pidfd_count; i++)
		syscall(SYS_pidfd_send_signal, pidfds[i], SIGKILL, NULL, 0);
	while (trace_count && monotonic() < deadline) {
		for (int hash = 0; hash < HASHES; hash++)
			for (struct trace **at = &traces[hash]; *at;)
				if (remove_trace(*at))
					unlink_trace(at);
				else
					at = &(*at)->next;
		if (trace_count)
			nanosleep(&pause, NULL);
	}
}
