/* The process of a plan: from the clone to the command. */
#include "launcher.h"

#include <linux/close_range.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static int compare(const void *one, const void *other)
{
	return *(const int *)one - *(const int *)other;
}

/* Close everything that this process was not told to have: one directory too many is a way out. */
static void arrange_descriptors(const struct file *files, size_t count, int status, const int *given)
{
	int kept[MAX_DESCRIPTORS + NAMESPACES + 1], start = 3;
	size_t length = 0;

	for (size_t i = 0; i < count; i++) {
		must(dup2(files[i].given, files[i].number));
		kept[length++] = files[i].number;
	}
	kept[length++] = status;
	for (int i = 0; i < NAMESPACES; i++)
		if (given[i] >= 0)
			kept[length++] = given[i];
	qsort(kept, length, sizeof(*kept), compare);
	for (size_t i = 0; i < length; i++) {
		if (kept[i] < start)
			continue;
		if (kept[i] > start)
			syscall(SYS_close_range, start, kept[i] - 1, 0);
		start = kept[i] + 1;
	}
	syscall(SYS_close_range, start, ~0U, 0);
}

static void set_dumpable(int dumpable)
{
	if (prctl(PR_SET_DUMPABLE, dumpable) < 0)
		fail_launcher("OSError: [Errno %d] prctl: %s", errno, strerror(errno));
}

/*
 * Be root of the user namespace that this process was born in, by mapping its ids, unless others do that for it.
 *
 * From here on it is dumpable, which the launcher never is: the files in /proc of a process that is not belong to host
 * root, proc(5), while it is an ordinary user who writes these, and takes the receipts. In a pid namespace of its own
 * nothing of the container is there yet that could look into it.
 */
static void become_owner(const struct id_map *ids)
{
	struct trouble trouble;

	set_dumpable(1);
	progress.phase = "id maps";
	if (!ids->helped && write_id_maps("self", ids, &trouble) < 0)
		fail_errno(trouble.number, "%s", trouble.text);
}

static void run_steps(const struct plan *plan, struct reader *reader)
{
	uint32_t count = read_length(reader);
	double began = monotonic(), before, now;

	for (uint32_t index = 0; index < count; index++) {
		before = plan->trace ? monotonic() : 0;
		progress.step = index;
		progress.phase = NULL;
		uint8_t number = read_byte(reader);
		if (number >= step_count)
			fail_launcher("AttributeError: there is no step %d", number);
		steps[number].run(reader);
		progress.phase = "launcher";
		if (plan->trace) {
			now = monotonic();
			send_packet(building.status, -1, "{\"done\": %u, \"after\": %.9f, \"seconds\": %.9f}", index,
				    now - began, now - before);
		}
		/* As it was, whatever new credentials make of that: proc_sys_fs(5), suid_dumpable. */
		set_dumpable(plan->has_ids);
	}
}

/* --- the command --- */

/* An ignored signal stays ignored across execve(2), as 32 and 33 are in whatever glibc's posix_spawn(3) has started. */
static void reset_signals(void)
{
	/* struct sigaction of the kernel: SIG_DFL, no flags, an empty mask; the library keeps 32 and 33 for itself. */
	static const char action[32];

	for (int number = 1; number <= 64; number++)
		if (number != SIGKILL && number != SIGSTOP)
			must_named("rt_sigaction", syscall(SYS_rt_sigaction, number, action, NULL, 8));
}

/* Replace descriptors; those that came may have any numbers, also those that are to be replaced. */
static void take_over(struct file *taken, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int aside = (int)must(fcntl(taken[i].given, F_DUPFD_CLOEXEC, ASIDE));
		close(taken[i].given);
		taken[i].given = aside;
	}
	for (size_t i = 0; i < count; i++)
		must(dup2(taken[i].given, taken[i].number));
}

/* HOME comes first, unless the container has its own; `default_home` is a whole entry. */
static char **with_home(const struct list *environment, char *default_home)
{
	char **result = calloc(environment->length + 2, sizeof(*result));
	size_t length = 0;

	if (!result)
		fail_errno(ENOMEM, "%s", strerror(ENOMEM));
	result[length++] = default_home;
	for (size_t i = 0; i < environment->length; i++)
		if (strncmp(environment->items[i], "HOME=", 5))
			result[length++] = environment->items[i];
		else
			result[0] = environment->items[i];
	return result;
}

static char *joined(const char *one, const char *other)
{
	char *result = malloc(strlen(one) + strlen(other) + 1);

	if (!result)
		fail_errno(ENOMEM, "%s", strerror(ENOMEM));
	return strcat(strcpy(result, one), other);
}

static const char *value_of(char **environment, const char *name)
{
	size_t length = strlen(name);

	for (; *environment; environment++)
		if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
			return *environment + length + 1;
	return "";
}

/* Why a candidate was not executed; the first such reason is what is told. */
static struct trouble refused;

static void refuse(const char *candidate, int number, const char *why)
{
	if (refused.number)
		return;
	refused.number = number;
	snprintf(refused.text, sizeof(refused.text), "%s: %s", candidate, why);
}

static void try_to_execute(const char *candidate, char **argv, char **environment)
{
	struct stat found;
	int number;

	execve(candidate, argv, environment);
	number = errno;
	if (number == ENOENT || number == ENOTDIR) {
		if (lstat(candidate, &found) == 0)
			refuse(candidate, ENOEXEC, "its interpreter is missing");
		else if (strchr(argv[0], '/'))
			fail_errno(number, "%s: %s", candidate, strerror(number));
	} else if (number == ENOEXEC) {
		refuse(candidate, number, "not a program of this machine's architecture, and no script with a #! line");
	} else if (stat(candidate, &found) == 0 && S_ISDIR(found.st_mode)) {
		refuse(candidate, number, "is a directory");
	} else {
		refuse(candidate, number, strerror(number));
	}
}

/* execvpe(3), but a file that exists and cannot be executed is not reported as missing. */
static _Noreturn void search_and_execute(char **argv, char **environment)
{
	const char *path = value_of(environment, "PATH");
	char *candidate = malloc(strlen(path) + strlen(argv[0]) + 4);

	if (!candidate)
		fail_errno(ENOMEM, "%s", strerror(ENOMEM));
	if (strchr(argv[0], '/')) {
		try_to_execute(argv[0], argv, environment);
	} else {
		for (const char *at = path, *end;; at = end + 1) {
			end = strchrnul(at, ':');
			sprintf(candidate, "%.*s/%s", end == at ? 1 : (int)(end - at), end == at ? "." : at, argv[0]);
			try_to_execute(candidate, argv, environment);
			if (!*end)
				break;
		}
	}
	if (refused.number)
		fail_errno(refused.number, "%s", refused.text);
	fail_errno(ENOENT, "%s: not found in %s", argv[0], path);
}

/* In its directory, with its terminal, with no signal blocked. */
static _Noreturn void execute(const struct command *command, char **argv, char **environment)
{
	sigset_t none;

	if (chdir(command->working_dir) < 0)
		fail_errno(errno, "working directory %s: %s", command->working_dir, strerror(errno));
	if (command->terminal)
		must(ioctl(0, TIOCSCTTY, 0));
	sigemptyset(&none);
	must(sigprocmask(SIG_SETMASK, &none, NULL));
	search_and_execute(argv, environment);
}

/*
 * Do all that can be done before the command may run, wait for that, and run it.
 *
 * An init is there when the supervisor looks, and its child is the process that waits: behind the barrier there is
 * hardly more than execve(2).
 */
static _Noreturn void run_command(const struct command *command, const struct file *files, size_t count)
{
	char **environment = with_home(&command->environment, joined("HOME=", building.home));
	char *shell[] = {(char *)building.shell, NULL}, **argv = command->argv.length ? command->argv.items : shell;
	struct file taken[MAX_DESCRIPTORS];
	struct pipes init = {-1, -1};
	char answer;

	progress.phase = "launcher";
	if (command->init)
		init = fork_behind_init(building.status, files, count);
	progress.init = init.out;
	reset_signals();
	progress.phase = "execute";
	count = barrier("ready", taken);
	if (command->init) {
		must(write(init.out, "go", 2));
		if (must(read(init.in, &answer, 1)) == 0)
			_exit(125); /* it was killed */
	}
	take_over(taken, count);
	execute(command, argv, environment);
}

_Noreturn void run_plan(const struct plan *plan, int status, const struct file *files, size_t count,
			int given[NAMESPACES], struct owner owner)
{
	struct reader reader = plan->rest;
	struct command command = {.init = false};

	progress.phase = "launcher";
	building.status = status;
	building.owner = owner;
	memcpy(building.namespaces, given, sizeof(building.namespaces));
	arrange_descriptors(files, count, status, given);
	if (plan->has_ids)
		become_owner(&plan->ids);
	progress.phase = "launcher";
	if (plan->has_command)
		command = read_command(&reader);
	run_steps(plan, &reader);
	if (plan->has_command)
		run_command(&command, files, count);
	barrier("ready", NULL);
	_exit(0);
}
