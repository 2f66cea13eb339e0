/*
 * hide DIRECTORY PROGRAM [ARGUMENT...]: execute a program that does not see what is mounted there.
 *
 * crun 1.8 refuses to start where cgroup v1 and v2 are both mounted. This costs it an execve and a mount namespace.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 3 || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) ||
	    umount2(argv[1], MNT_DETACH)) {
		perror("hide");
		return 125;
	}
	execv(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}
