/* PID 1 in front of the command: passes signals on, reaps every orphan, ends when the command ends. */
#include "launcher.h"

#include <sys/wait.h>

static char *title_start;
static size_t title_size;

/* The argument vector, which is in one piece, proc_pid_cmdline(5). */
void set_title_space(int argc, char **argv)
{
	title_start = argv[0];
	title_size = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) + 1 - argv[0]);
}

/* PR_SET_MM_ARG_START would need CAP_SYS_RESOURCE; a longer title is cut off. */
void set_title(const char *title)
{
	memset(title_start, 0, title_size);
	memcpy(title_start, title, strlen(title) < title_size ? strlen(title) : title_size - 1);
	prctl(PR_SET_NAME, title);
}

/* What Python knows as signals: those with a name, and the first and the last of those without. */
static void all_signals(sigset_t *set)
{
	sigemptyset(set);
	for (int number = 1; number < 32; number++)
		sigaddset(set, number);
	sigaddset(set, SIGRTMIN);
	sigaddset(set, SIGRTMAX);
}

static bool is_forwarded(int number)
{
	return number != SIGCHLD && number != SIGTTIN && number != SIGTTOU && number != SIGTSTP;
}

/* Whether the command was among the zombies, and its wait status. */
static bool reap_all(pid_t command, int *status)
{
	bool ended = false;
	int found;
	pid_t pid;

	while ((pid = waitpid(-1, &found, WNOHANG)) > 0)
		if (pid == command) {
			*status = found;
			ended = true;
		}
	return ended;
}

static _Noreturn void run_init(int status, struct pipes pipes, pid_t command)
{
	sigset_t every;
	char answer[8];
	int number, ended;

	set_title("pysuper-init");
	if (read(pipes.in, answer, 2) != 2 || memcmp(answer, "go", 2)) /* it has failed before, or was killed */
		_exit(125);
	/*
	 * Not dumpable, so that no process of the container can open /proc/1/exe or /proc/1/fd (CVE-2019-5736). Not
	 * before the receipts were taken, which ordinary users could not do then.
	 */
	must_named("prctl", prctl(PR_SET_DUMPABLE, 0));
	if (write(pipes.out, "!", 1) != 1 || read(pipes.in, answer, 6)) /* end of file: execve has closed the other end */
		_exit(125);
	close(pipes.in);
	close(pipes.out);
	send_packet(status, -1, "{\"started\": true}");
	all_signals(&every);
	for (;;) {
		if (sigwait(&every, &number))
			continue;
		if (number == SIGCHLD) {
			if (reap_all(command, &ended)) {
				send_packet(status, -1, "{\"exited\": %d}", ended);
				_exit(WIFEXITED(ended) ? WEXITSTATUS(ended) & 0x7f : 128 - WTERMSIG(ended));
			}
		} else if (is_forwarded(number)) {
			kill(command, number);
		}
	}
}

/*
 * Become PID 1, and go on in a child of it; the pipes to its init, which it asks whether it may execute the command.
 *
 * Pipes, since a system call filter is in force already, and has to allow whatever is called here.
 *
 * The kernel kills whatever else is in the pid namespace once the init ends, pid_namespaces(7).
 */
struct pipes fork_behind_init(int status, const struct file *files, size_t count)
{
	sigset_t every;
	int asking[2], answering[2];
	pid_t pid;

	all_signals(&every);
	must(sigprocmask(SIG_BLOCK, &every, NULL));
	/* In a shared pid namespace orphans come here only if this process asks for them. */
	if (getpid() != 1)
		must_named("prctl", prctl(PR_SET_CHILD_SUBREAPER, 1));
	must(pipe2(asking, O_CLOEXEC));
	must(pipe2(answering, O_CLOEXEC));
	pid = (pid_t)must(fork());
	if (pid == 0) {
		close(asking[0]);
		close(answering[1]);
		must(setsid());
		return (struct pipes){.in = answering[0], .out = asking[1]};
	}
	close(asking[1]);
	close(answering[0]);
	for (size_t i = 0; i < count; i++) /* the command alone keeps pipes and terminal open */
		close(files[i].number);
	run_init(status, (struct pipes){.in = asking[0], .out = answering[1]}, pid);
}
