/*
 * A command that says when it runs, in nanoseconds of CLOCK_MONOTONIC, as lines of its standard output.
 *
 *     stamp          "first NS": at its first instruction, before any C library could have started up
 *     stamp last     and "last NS": just before it exits, some milliseconds later, when who started it is at rest
 *     stamp sleep    "first NS", then waits for the end of its standard input
 *
 * Containers share the clock with the host, except in a time namespace with offsets, of which there are none here.
 */
#include <asm/unistd.h>

static long call(long number, long a, long b, long c)
{
#if defined(__x86_64__)
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
#else
#error "written for x86_64 and aarch64"
#endif
}

static void now(long time[2])
{
	call(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)time, 0);
}

static void say(const char *word, const long time[2])
{
	char line[40];
	char digits[24];
	long left = time[0] * 1000000000 + time[1];
	int length = 0, count = 0;

	while (*word)
		line[length++] = *word++;
	line[length++] = ' ';
	do
		digits[count++] = '0' + left % 10;
	while (left /= 10);
	while (count)
		line[length++] = digits[--count];
	line[length++] = '\n';
	call(__NR_write, 1, (long)line, length);
}

/* Given the stack as the kernel has left it: argc, argv. */
__attribute__((used, noreturn)) static void start(char **stack)
{
	long time[2];
	char option = (long)stack[0] > 1 ? stack[2][0] : 0;
	char byte;

	now(time);
	say("first", time);
	if (option == 's')
		while (call(__NR_read, 0, (long)&byte, 1) > 0)
			;
	if (option == 'l') {
		time[0] = 0;
		time[1] = 5000000;
		call(__NR_nanosleep, (long)time, 0, 0);
		now(time);
		say("last", time);
	}
	for (;;)
		call(__NR_exit_group, 0, 0, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
#else
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tb start\n");
#endif
