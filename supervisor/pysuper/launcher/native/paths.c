/*
 * Paths beneath the new root.
 *
 * A target is resolved once, beneath the new root (openat2(2), RESOLVE_IN_ROOT), and what is mounted is attached to the
 * descriptor that came out, so that a container which shares the file system, and swaps a directory for a symbolic link
 * meanwhile, cannot move a mount elsewhere (CVE-2021-30465, CVE-2025-31133).
 */
#include "launcher.h"

#include <linux/openat2.h>
#include <sys/fsuid.h>

/* A symbolic link in a target is an error even where it stays inside: the receipt looks for the mount by its name. */
#define IN_ROOT (RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)

int new_root(void)
{
	if (building.root < 0)
		fail("no step has mounted the new root at \"/\"");
	return building.root;
}

void enter_root(void)
{
	must(chdir("/"));
	close(new_root());
	building.root = (int)must(open("/", O_PATH | O_CLOEXEC));
}

int open_path(int directory, const char *path, uint64_t resolve)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = resolve};

	return (int)syscall(SYS_openat2, directory, path, &how, sizeof(how));
}

int resolve(const char *target)
{
	int found = open_path(new_root(), target, IN_ROOT);

	if (found < 0 && errno == ELOOP)
		fail("%s is or leads through a symbolic link in the container", target);
	if (found < 0 && errno != ENOENT)
		fail_call("openat2");
	return found;
}

/* Without "." and "..", and each slash once, as os.path.normpath has it; to be freed. */
static char *normalized(const char *path)
{
	char *result = malloc(strlen(path) + 2), *end = result;

	if (!result)
		fail_errno(ENOMEM, "%s", strerror(ENOMEM));
	while (*path) {
		size_t length;
		path += strspn(path, "/");
		length = strcspn(path, "/");
		if (length == 2 && !strncmp(path, "..", 2)) {
			while (end > result && *--end != '/')
				;
		} else if (length && !(length == 1 && *path == '.')) {
			*end++ = '/';
			memcpy(end, path, length);
			end += length;
		}
		path += length;
	}
	if (end == result)
		*end++ = '/';
	*end = 0;
	return result;
}

int parent_of(const char *target, char **name)
{
	char *path = normalized(target), *slash = strrchr(path, '/');
	int parent;

	*name = strdup(slash + 1);
	slash[slash == path] = 0;
	parent = resolve_or_create(path, true);
	free(path);
	return parent;
}

int resolve_or_create(const char *target, bool directory)
{
	struct stat status;
	int found = resolve(target);

	if (found < 0) {
		char *name;
		int parent = parent_of(target, &name);
		as_owner();
		if (directory)
			must(mkdirat(parent, name, 0755));
		else
			close((int)must(openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644)));
		as_itself();
		close(parent);
		free(name);
		found = resolve(target);
		if (found < 0)
			fail_call("openat2");
	}
	must(fstat(found, &status));
	if (S_ISDIR(status.st_mode) != directory)
		fail("%s exists in the container and is %s directory", target, directory ? "no" : "a");
	return found;
}

/* setfsuid(2) reports no errors. */
void as_owner(void)
{
	setfsgid(building.owner.gid);
	setfsuid(building.owner.uid);
}

void as_itself(void)
{
	setfsgid(getegid());
	setfsuid(geteuid());
}
