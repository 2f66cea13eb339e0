/*
 * The native launcher: what server.py, child.py, execute.py and idmaps.py of pysuper.launcher do, in C.
 *
 *     main.c      the launcher process: serves requests until the supervisor closes its end
 *     cleanup.c   removes what a supervisor that died has left
 *     clone.c     makes namespaces, and the process of a plan
 *     child.c     that process: from the clone to the command
 *     init.c      PID 1 in front of the command
 *     steps.c     what each step does, and their table; mounts.c: those that mount
 *     paths.c     paths beneath the new root
 *     accounts.c  users, from the container's own files
 *     message.c   messages to the supervisor, and errors
 *     reader.c    plans and requests, as pysuper.launcher.native writes them
 *
 * One thread, no environment, no files but those of a plan. The messages on the status socket are those of wire.py.
 */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* As in wire.py. */
#define MAX_PACKET 65536
#define MAX_DESCRIPTORS 32
/* Above all numbers that a command may have. */
#define ASIDE 10

/* --- reader.c --- */

struct reader {
	const char *at, *end;
};

/* A string in place: it ends with a NUL, which its length does not count, and may have others if it is a content. */
struct content {
	const char *bytes;
	size_t length;
};

struct list {
	char **items; /* ends with NULL */
	size_t length;
};

/* What is read of a plan that ends too early, or is none, ends the process. */
uint8_t read_byte(struct reader *reader);
int64_t read_integer(struct reader *reader);
uint32_t read_length(struct reader *reader);
struct content read_content(struct reader *reader);
const char *read_text(struct reader *reader);
const char *read_optional_text(struct reader *reader); /* NULL is none */
struct list read_list(struct reader *reader);

/* --- message.c --- */

/* Which step is being done, for errors. */
struct progress {
	int status;         /* the socket */
	const char *phase;  /* instead of a number, or NULL */
	uint32_t step;
	int init;           /* the pipe to who is told when the command cannot be executed, or -1 */
};
extern struct progress progress;

double monotonic(void);
/* Send a packet with a descriptor, or -1; -1 and errno if that fails. */
int send_packet(int channel, int descriptor, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The bytes received (0 at end of file), and the descriptors that came with them, close-on-exec. */
ssize_t receive_packet(int channel, char *packet, size_t size, int *descriptors, int *count);
/* A text as a JSON string, with its quotes; what is too long is cut off. */
void json_text(char *target, size_t size, const char *text);
/* A text as Python shows it, with its quotes. */
void python_text(char *target, size_t size, const char *text);

/* Tell that the step has failed, and end this process. The first also says errno, and both go on with its text. */
_Noreturn void fail_call(const char *name);
_Noreturn void fail_errno(int number, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* For reasons that no errno expresses. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* What is nobody's step: a plan that is none, as Python says it. */
_Noreturn void fail_launcher(const char *format, ...) __attribute__((format(printf, 1, 2)));
void tell_failed(int status, const char *step, int number, const char *text, pid_t child);

/* For calls of which none may fail: the message is that of errno, or begins with the name of the call. */
#define must(call)                           \
	({                                   \
		long result_ = (long)(call); \
		if (result_ < 0)             \
			fail_call(NULL);     \
		result_;                     \
	})
#define must_named(name, call)               \
	({                                   \
		long result_ = (long)(call); \
		if (result_ < 0)             \
			fail_call(name);     \
		result_;                     \
	})

/* --- clone.c --- */

/* A descriptor of the command's. */
struct file {
	int number, given;
};

enum { NAMESPACES = 8 };
struct namespace {
	const char *name;
	uint64_t flag;
};
extern const struct namespace namespaces[NAMESPACES];
/* The position of a namespace. */
int must_find_namespace(const char *name);
uint64_t namespace_flags(const struct list *names);

struct id_line {
	int64_t inside, outside, count;
};
struct id_map {
	bool privileged, helped;
	struct id_line *uids, *gids;
	size_t uid_lines, gid_lines;
};

/* What a plan says before its steps; texts are in the plan. */
struct plan {
	int files[MAX_DESCRIPTORS]; /* the numbers that descriptors which came with it have in the command */
	size_t file_count;
	struct list given; /* the namespaces of those that came after them */
	struct list clone;
	bool has_holder, has_ids, trace, has_command;
	struct list holder;
	struct id_map holder_ids, ids;
	const char *cgroup;
	struct reader rest; /* the command, if it has one, and the steps */
};

struct command {
	struct list argv, environment; /* "NAME=VALUE" */
	const char *working_dir;
	bool init, terminal;
};

/* Why a call of the launcher's, which goes on, has failed. */
struct trouble {
	int number;
	char text[4096 + 256]; /* with a path in it */
};

/* Note errno, and what it is about (or NULL); -1. */
int get_in_trouble(struct trouble *trouble, const char *subject);
struct plan read_plan(struct reader reader);
void free_plan(struct plan *plan);
struct command read_command(struct reader *reader);
int write_file(const char *path, const char *content, size_t length, struct trouble *trouble);
int write_id_maps(const char *process, const struct id_map *ids, struct trouble *trouble);
/* Make namespaces, owned by a new user namespace; their descriptors, by position, are put into `held`. */
int hold_namespaces(const struct plan *plan, int held[NAMESPACES], struct trouble *trouble);
/* The pid; with the pidfd, and the gate at which it waits: a byte lets it run, end of file lets it exit. */
pid_t clone_process(const struct plan *plan, int status, const struct file *files, size_t count,
		    int given[NAMESPACES], int *pidfd, int *gate, struct trouble *trouble);
pid_t raw_clone(uint64_t flags, int cgroup, int *pidfd);

/* --- child.c --- */

struct owner {
	uid_t uid;
	gid_t gid;
};

_Noreturn void run_plan(const struct plan *plan, int status, const struct file *files, size_t count,
			int given[NAMESPACES], struct owner owner);

/* --- init.c --- */

/* In place, as ps(1) shows it; `set_title_space` says where. */
void set_title_space(int argc, char **argv);
void set_title(const char *title);
struct pipes {
	int in, out;
};
struct pipes fork_behind_init(int status, const struct file *files, size_t count);

/* --- steps.c --- */

/* What the steps of a plan share. */
struct building {
	int status;
	int namespaces[NAMESPACES]; /* those that exist already; each is closed once it is joined */
	struct owner owner;         /* the container's root, as this process must call it while it builds */
	int root;                   /* the new one, or -1 */
	const char *hidden;         /* a directory that an empty file system is over, or NULL */
	const char *home, *shell;   /* of the user that `set_user` chose */
};
extern struct building building;

struct step {
	const char *name;
	const char *fields; /* their names and types, in order */
	void (*run)(struct reader *reader);
};
extern const struct step steps[];
extern const size_t step_count;

/* Wait for the supervisor; which of the command's descriptors become others, as what came with the answer says. */
size_t barrier(const char *name, struct file *taken);

/* --- mounts.c --- */

void step_private_mounts(struct reader *reader);
void step_overlay(struct reader *reader);
void step_bind(struct reader *reader);
void step_mount(struct reader *reader);
void step_mask_path(struct reader *reader);
void step_read_only_path(struct reader *reader);
void step_root_flags(struct reader *reader);
void step_pivot_root(struct reader *reader);
void step_chroot(struct reader *reader);

/* --- paths.c --- */

int new_root(void);
void enter_root(void);
/* Open with control over how the path is resolved, openat2(2). */
int open_path(int directory, const char *path, uint64_t resolve);
/* What a target is, or -1 if it is not there. */
int resolve(const char *target);
int resolve_or_create(const char *target, bool directory);
/* The directory that a target is in, and its name there, to be freed. */
int parent_of(const char *target, char **name);
/* Files are the container's root's: on a mount with mapped ids host root itself has no id at all. */
void as_owner(void);
void as_itself(void);

/* --- accounts.c --- */

struct account {
	uid_t uid;
	gid_t gid;
	const char *home, *shell;
	gid_t *groups;
	size_t group_count;
};
struct account find_account(const char *user);

/* --- cleanup.c --- */

void remember_trace(const char *kind, const char *path);
void forget_trace(const char *kind, const char *path);
void remember_process(int pidfd);
void forget_process(int pidfd);
void clean_up(void);

#endif
