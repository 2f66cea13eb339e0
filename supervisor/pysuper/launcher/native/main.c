/*
 * The launcher process: clones containers on request, and cleans up after a supervisor that died.
 *
 *     pysuper-launcher CONTROL      the number of the control socket
 *     pysuper-launcher --steps      print the names of all steps, and their fields
 */
#include "launcher.h"

#include <linux/close_range.h>
#include <sys/epoll.h>
#include <sys/mman.h>

static int epoll;

/* Where a command may want descriptors of its own, none of ours will come to be. */
static void arrange_descriptors(int control)
{
	syscall(SYS_close_range, 3, control - 1, 0);
	syscall(SYS_close_range, control + 1, ~0U, 0);
	for (int number = 3; number < control; number++)
		dup3(0, number, O_CLOEXEC);
}

/* Nothing is read from our memory, or sent to us by a terminal. */
static void seal(void)
{
	set_title("pysuper-launcher");
	if (prctl(PR_SET_DUMPABLE, 0) < 0)
		_exit(1);
	signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN); /* a process at its gate may have been killed */
}

static void watch(int descriptor)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0)
		_exit(1); /* another launcher takes over */
}

/* A container of a launcher that died, or one of our own. */
static void adopt(int pidfd)
{
	remember_process(pidfd);
	watch(pidfd);
}

/* Its process has ended. The supervisor has the same descriptor, so that closing ours is not enough for epoll(7). */
static void forget(int pidfd)
{
	epoll_ctl(epoll, EPOLL_CTL_DEL, pidfd, NULL);
	forget_process(pidfd);
}

static void launch(struct reader reader, int status, const int *rest, size_t rest_count)
{
	struct plan plan;
	struct file files[MAX_DESCRIPTORS];
	struct trouble trouble = {.number = 0};
	int entered[NAMESPACES], held[NAMESPACES], pidfd = -1, gate = -1;
	const char *step = "\"clone\"";
	double heard = monotonic(), made;
	pid_t pid = -1;

	progress.status = status; /* told of a plan that is none */
	plan = read_plan(reader);
	memset(entered, -1, sizeof(entered));
	memset(held, -1, sizeof(held));
	if (rest_count < plan.file_count + plan.given.length) { /* there was no room for all */
		errno = EMFILE;
		get_in_trouble(&trouble, NULL);
		goto failed;
	}
	for (size_t i = 0; i < plan.file_count; i++)
		files[i] = (struct file){plan.files[i], rest[i]};
	for (size_t i = 0; i < plan.given.length; i++)
		entered[must_find_namespace(plan.given.items[i])] = rest[plan.file_count + i];
	if (plan.has_holder) {
		step = "\"holder\"";
		if (hold_namespaces(&plan, held, &trouble) < 0)
			goto failed;
		for (int i = 0; i < NAMESPACES; i++)
			entered[i] = held[i] >= 0 ? held[i] : entered[i];
	}
	made = monotonic();
	step = "\"clone\"";
	pid = clone_process(&plan, status, files, plan.file_count, entered, &pidfd, &gate, &trouble);
	if (pid < 0)
		goto failed;
	adopt(pidfd);
	/* From here on the supervisor can end the process, so whatever fails now is only to be told. */
	if (send_packet(status, pidfd, "{\"pid\": %d, \"times\": [%.9f, %.9f, %.9f]}", pid, heard, made,
			monotonic()) < 0) {
		get_in_trouble(&trouble, NULL);
		goto failed;
	}
	/* It may have been killed meanwhile, as its end will tell. */
	if (write(gate, "g", 1) < 0 && errno != EPIPE)
		_exit(1);
	goto done;
failed:
	tell_failed(status, step, trouble.number, trouble.text, pid);
done:
	progress.status = -1;
	if (gate >= 0)
		close(gate);
	for (int i = 0; i < NAMESPACES; i++)
		if (held[i] >= 0)
			close(held[i]);
	for (size_t i = 0; i < rest_count; i++)
		close(rest[i]);
	close(status);
	free_plan(&plan);
}

/* A plan that was too large for a packet. */
static void launch_from_file(const int *descriptors, int count)
{
	struct stat found;
	char *content;

	if (count < 2 || fstat(descriptors[0], &found) < 0)
		_exit(1);
	content = mmap(NULL, (size_t)found.st_size, PROT_READ, MAP_PRIVATE, descriptors[0], 0);
	if (content == MAP_FAILED)
		_exit(1);
	close(descriptors[0]);
	launch((struct reader){content, content + found.st_size}, descriptors[1], descriptors + 2,
	       (size_t)count - 2);
	munmap(content, (size_t)found.st_size);
}

static void keep_books(struct reader *reader, void (*keep)(const char *kind, const char *path))
{
	for (uint32_t left = read_length(reader); left; left--) {
		const char *kind = read_text(reader);
		keep(kind, read_text(reader));
	}
}

static void serve(int control, char *packet)
{
	int descriptors[MAX_DESCRIPTORS], count;
	ssize_t length = receive_packet(control, packet, MAX_PACKET, descriptors, &count);
	struct reader reader = {packet + 1, packet + length};

	if (length <= 0) {
		clean_up();
		_exit(0);
	}
	switch (*packet) {
	case 'L':
		if (count < 1)
			_exit(1); /* there was no room for the socket at which somebody waits */
		launch(reader, descriptors[0], descriptors + 1, (size_t)count - 1);
		return;
	case 'M':
		launch_from_file(descriptors, count);
		return;
	case 'A':
		if (count == 1)
			adopt(descriptors[0]);
		return;
	case 'R':
		keep_books(&reader, remember_trace);
		return;
	case 'F':
		keep_books(&reader, forget_trace);
		return;
	default:
		_exit(1);
	}
}

int main(int argc, char **argv)
{
	static char packet[MAX_PACKET];
	struct epoll_event events[32];
	int control;

	if (argc != 2)
		return 125;
	if (!strcmp(argv[1], "--steps")) {
		for (size_t i = 0; i < step_count; i++)
			printf("%s%s%s\n", steps[i].name, *steps[i].fields ? " " : "", steps[i].fields);
		return 0;
	}
	control = atoi(argv[1]);
	if (control < 3)
		return 125;
	/* What is made for a container is not for the caller's umask to hide from its users. */
	umask(022);
	signal(SIGCHLD, SIG_DFL);
	arrange_descriptors(control);
	set_title_space(argc, argv);
	seal();
	fcntl(control, F_SETFD, FD_CLOEXEC);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
		return 1;
	watch(control);
	for (;;) {
		int ready = epoll_wait(epoll, events, 32, -1);
		for (int i = 0; i < ready; i++)
			if (events[i].data.fd != control)
				forget(events[i].data.fd);
		for (int i = 0; i < ready; i++)
			if (events[i].data.fd == control)
				serve(control, packet);
	}
}
