/* Messages on the status socket, and errors, which are one of them. */
#include "launcher.h"

#include <stdarg.h>
#include <time.h>

#define LONGEST 8192

struct progress progress = {.status = -1, .phase = "launcher", .init = -1};

double monotonic(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int send_bytes(int channel, int descriptor, const char *packet, size_t length)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} control = {.space = {0}};
	struct iovec part = {(void *)packet, length};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (descriptor >= 0) {
		message.msg_control = control.space;
		message.msg_controllen = sizeof(control.space);
		control.aligned.cmsg_level = SOL_SOCKET;
		control.aligned.cmsg_type = SCM_RIGHTS;
		control.aligned.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.aligned), &descriptor, sizeof(int));
	}
	return sendmsg(channel, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

int send_packet(int channel, int descriptor, const char *format, ...)
{
	char packet[LONGEST];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(packet, sizeof(packet), format, arguments);
	va_end(arguments);
	if (length < 0 || (size_t)length >= sizeof(packet)) {
		errno = EMSGSIZE;
		return -1;
	}
	return send_bytes(channel, descriptor, packet, (size_t)length);
}

ssize_t receive_packet(int channel, char *packet, size_t size, int *descriptors, int *count)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * MAX_DESCRIPTORS)];
		struct cmsghdr aligned;
	} control;
	struct iovec part = {packet, size};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control.space,
				 .msg_controllen = sizeof(control.space)};
	ssize_t length;

	*count = 0;
	do
		length = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
	while (length < 0 && errno == EINTR);
	if (length < 0)
		return -1;
	for (struct cmsghdr *part_of = CMSG_FIRSTHDR(&message); part_of; part_of = CMSG_NXTHDR(&message, part_of))
		if (part_of->cmsg_level == SOL_SOCKET && part_of->cmsg_type == SCM_RIGHTS) {
			*count = (int)((part_of->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(descriptors, CMSG_DATA(part_of), (size_t)*count * sizeof(int));
		}
	return length;
}

/* How many bytes the character at `text` has in UTF-8, RFC 3629; 0 if it is none. */
static size_t character(const unsigned char *text)
{
	unsigned char first = text[0], low = 0x80, high = 0xbf;
	size_t length = first < 0x80 ? 1 : first >= 0xc2 && first < 0xe0 ? 2 : first >= 0xe0 && first < 0xf0 ? 3 :
			first >= 0xf0 && first < 0xf5 ? 4 : 0;

	if (first == 0xe0)
		low = 0xa0;
	else if (first == 0xed)
		high = 0x9f;
	else if (first == 0xf0)
		low = 0x90;
	else if (first == 0xf4)
		high = 0x8f;
	for (size_t i = 1; i < length; i++, low = 0x80, high = 0xbf)
		if (text[i] < low || text[i] > high)
			return 0;
	return length;
}

void json_text(char *target, size_t size, const char *text)
{
	char *at = target, *end = target + size - 8; /* room for the longest escape, the quote and the NUL */
	size_t length;

	*at++ = '"';
	for (const unsigned char *from = (const unsigned char *)text; *from && at < end; from += length ? length : 1) {
		length = character(from);
		if (!length) /* as Python's surrogateescape has it */
			at += sprintf(at, "\\udc%02x", *from);
		else if (*from < 0x20 || *from == '"' || *from == '\\')
			at += sprintf(at, "\\u%04x", *from);
		else
			for (size_t i = 0; i < length; i++)
				*at++ = (char)from[i];
	}
	*at++ = '"';
	*at = 0;
}

void python_text(char *target, size_t size, const char *text)
{
	char *at = target, *end = target + size - 8;
	char quote = strchr(text, '\'') && !strchr(text, '"') ? '"' : '\'';
	size_t length;

	*at++ = quote;
	for (const unsigned char *from = (const unsigned char *)text; *from && at < end; from += length ? length : 1) {
		length = character(from);
		if (!length)
			at += sprintf(at, "\\udc%02x", *from);
		else if (*from == (unsigned char)quote || *from == '\\')
			at += sprintf(at, "\\%c", *from);
		else if (*from == '\n' || *from == '\t' || *from == '\r')
			at += sprintf(at, "\\%c", *from == '\n' ? 'n' : *from == '\t' ? 't' : 'r');
		else if (*from < 0x20 || *from == 0x7f)
			at += sprintf(at, "\\x%02x", *from);
		else
			for (size_t i = 0; i < length; i++)
				*at++ = (char)from[i];
	}
	*at++ = quote;
	*at = 0;
}

void tell_failed(int status, const char *step, int number, const char *text, pid_t child)
{
	char shown[LONGEST - 256], errno_text[16] = "null", child_text[32] = "";

	json_text(shown, sizeof(shown), text);
	if (number > 0)
		snprintf(errno_text, sizeof(errno_text), "%d", number);
	if (child > 0)
		snprintf(child_text, sizeof(child_text), ", \"child\": %d", child);
	/* Nobody may listen any more. */
	send_packet(status, -1, "{\"failed\": {\"step\": %s, \"errno\": %s, \"message\": %s}%s}", step, errno_text, shown,
		    child_text);
}

static _Noreturn void end(const char *phase, int number, const char *text)
{
	char step[32];

	if (phase)
		snprintf(step, sizeof(step), "\"%s\"", phase);
	else
		snprintf(step, sizeof(step), "%u", progress.step);
	if (progress.status >= 0)
		tell_failed(progress.status, step, number, text, 0);
	/*
	 * An init that hears nothing would take the end of its child's pipe for the command's execve. It ends, and this
	 * process with it, so that this comes last.
	 */
	if (progress.init >= 0 && write(progress.init, "failed", 6) < 0)
		_exit(125);
	_exit(125);
}

void fail_call(const char *name)
{
	int number = errno;

	fail_errno(number, "%s%s%s", name ? name : "", name ? ": " : "", strerror(number));
}

#define FORMATTED(text)                                          \
	char text[LONGEST / 2];                                  \
	va_list arguments;                                       \
	va_start(arguments, format);                             \
	vsnprintf(text, sizeof(text), format, arguments);        \
	va_end(arguments)

void fail_errno(int number, const char *format, ...)
{
	FORMATTED(text);
	end(progress.phase, number, text);
}

void fail(const char *format, ...)
{
	FORMATTED(text);
	end(progress.phase, 0, text);
}

void fail_launcher(const char *format, ...)
{
	FORMATTED(text);
	end("launcher", 0, text);
}
