/* The steps that mount. Everything is done on descriptors. */
#include "launcher.h"

#include <linux/openat2.h>
#include <sys/mount.h>

#define STRICT (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)

static uint64_t attributes_of(const struct list *flags)
{
	/* Names as in /proc/PID/mountinfo, change_mount(2). */
	static const struct {
		const char *name;
		uint64_t flag;
	} known[] = {{"ro", MOUNT_ATTR_RDONLY},
		     {"nosuid", MOUNT_ATTR_NOSUID},
		     {"nodev", MOUNT_ATTR_NODEV},
		     {"noexec", MOUNT_ATTR_NOEXEC},
		     {"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW}};
	uint64_t attributes = 0;

	for (size_t i = 0; i < flags->length; i++) {
		size_t found = 0;
		while (found < sizeof(known) / sizeof(*known) && strcmp(known[found].name, flags->items[i]))
			found++;
		if (found == sizeof(known) / sizeof(*known))
			fail_launcher("KeyError: '%s'", flags->items[i]);
		attributes |= known[found].flag;
	}
	return attributes;
}

static uint64_t read_attributes(struct reader *reader)
{
	struct list flags = read_list(reader);
	uint64_t attributes = attributes_of(&flags);

	free(flags.items);
	return attributes;
}

/* --- mounts that are attached nowhere yet --- */

/* The messages that a file system left for the reader of its context, fsopen(2), say more than the errno. */
static _Noreturn void fail_with_log(int context, const char *name)
{
	char log[2048], line[1024];
	int number = errno;
	size_t length = 0;
	ssize_t count;

	*log = 0;
	while (length < sizeof(log) && (count = read(context, line, sizeof(line) - 1)) > 0) {
		while (count > 0 && (line[count - 1] == '\n' || line[count - 1] == ' '))
			count--;
		length += (size_t)snprintf(log + length, sizeof(log) - length, "%s%.*s", length ? "; " : " (",
					   (int)count, line);
	}
	fail_errno(number, "%s: %s%s%s", name, strerror(number), log, *log ? ")" : "");
}

struct option {
	const char *key, *value; /* NULL is a flag without value */
};

/* A new file system: fsopen(2), fsconfig(2), fsmount(2). */
static int new_mount(const char *type, const struct option *options, size_t count, uint64_t attributes)
{
	int context = (int)must_named("fsopen", syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)), mount;
	bool named = false;

	for (size_t i = 0; i < count; i++)
		named |= !strcmp(options[i].key, "source");
	/* "source" is what mount(8) lists in its first column. */
	if (!named && syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", type, 0) < 0)
		fail_with_log(context, "fsconfig");
	for (size_t i = 0; i < count; i++)
		if (syscall(SYS_fsconfig, context, options[i].value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG,
			    options[i].key, options[i].value, 0) < 0)
			fail_with_log(context, "fsconfig");
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		fail_with_log(context, "fsconfig");
	mount = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
	if (mount < 0)
		fail_with_log(context, "fsmount");
	close(context);
	return mount;
}

/* Clone the mount at a descriptor, and with `recursive` those below. */
static int clone_tree(int descriptor, bool recursive)
{
	unsigned int flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);

	return (int)must_named("open_tree", syscall(SYS_open_tree, descriptor, "", flags));
}

static int change_mount(int mount, struct mount_attr attributes, bool recursive)
{
	unsigned int flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);

	return (int)syscall(SYS_mount_setattr, mount, "", flags, &attributes, sizeof(attributes));
}

static void set_attributes(int mount, uint64_t attributes, bool recursive)
{
	must_named("mount_setattr", change_mount(mount, (struct mount_attr){.attr_set = attributes}, recursive));
}

static void move_to(int mount, int target)
{
	must_named("move_mount", syscall(SYS_move_mount, mount, "", target, "",
					 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
}

/* Stack a mount on "/": our own root stays the one below, so nothing is hidden and no directory is needed. */
static void attach_over_root(int mount)
{
	int root = (int)must(open("/", O_PATH | O_CLOEXEC));

	move_to(mount, root);
	close(root);
}

static void attach(int mount, const char *target, bool directory)
{
	int at;

	if (building.root < 0) {
		if (strcmp(target, "/"))
			new_root(); /* which fails */
		attach_over_root(mount);
		building.root = mount;
		return;
	}
	at = resolve_or_create(target, directory);
	move_to(mount, at);
	close(at);
	close(mount);
}

/*
 * What is to be mounted, of the host. Links in its path were for who named it to follow, before anything ran.
 *
 * Another container may write to the directory that it is in, and files that it makes there belong to host root, as
 * the ids of its mounts are mapped: so nobody can tell whose link one is (CVE-2017-1002101, CVE-2021-25741).
 */
static int open_source(const char *source, bool follow)
{
	int found = open_path(AT_FDCWD, source, follow ? 0 : RESOLVE_NO_SYMLINKS);

	if (found < 0 && errno == ELOOP)
		fail("%s is or leads through a symbolic link: name what it leads to", source);
	if (found < 0)
		fail_call("openat2");
	return found;
}

static int tree_of(int found, const char *source, bool idmap, bool recursive)
{
	struct mount_attr mapped = {.attr_set = MOUNT_ATTR_IDMAP};
	int tree = clone_tree(found, recursive), user;

	if (!idmap)
		return tree;
	user = building.namespaces[must_find_namespace("user")];
	if (user < 0)
		fail_launcher("KeyError: 'user'");
	mapped.userns_fd = (uint64_t)user;
	if (change_mount(tree, mapped, recursive) < 0)
		fail_errno(errno,
			   "mount_setattr: %s: the file system of %s (or one mounted below it) cannot show its files "
			   "with mapped ids; --share user does without them",
			   strerror(errno), source);
	return tree;
}

/* --- steps --- */

void step_private_mounts(struct reader *reader)
{
	int root = (int)must(open("/", O_PATH | O_CLOEXEC));

	(void)reader;
	must_named("mount_setattr", change_mount(root, (struct mount_attr){.propagation = MS_SLAVE}, true));
	close(root);
}

/*
 * A tmpfs holds the writable layer, and under `lower` the source. It is attached over "/", where it hides nothing
 * (paths start at the root below it), and detached when the overlay, which keeps it alive, stands.
 */
void step_overlay(struct reader *reader)
{
	static const struct option scratch_options[] = {{"mode", "0755"}};
	static const struct option options[] = {
		{"lowerdir", "lower"}, {"upperdir", "upper"}, {"workdir", "work"}, {"userxattr", NULL}};
	const char *source = read_text(reader), *target = read_text(reader);
	bool idmap = read_byte(reader), userxattr = read_byte(reader), follow = read_byte(reader);
	int found = open_source(source, follow), lower = tree_of(found, source, idmap, false), scratch, at_lower, overlay;
	struct stat like;

	scratch = new_mount("tmpfs", scratch_options, 1, 0);
	attach_over_root(scratch);
	must(fchdir(scratch));
	must(mkdir("lower", 0777));
	must(mkdir("upper", 0777));
	must(mkdir("work", 0777));
	at_lower = (int)must(open("lower", O_PATH | O_CLOEXEC));
	move_to(lower, at_lower);
	/* The writable layer's directory is what the root of the overlay looks like. */
	must(fstat(found, &like));
	/* Inside a user namespace most owners have no id, and its root owns the layer already. */
	if (!userxattr)
		must(chown("upper", like.st_uid + building.owner.uid, like.st_gid + building.owner.gid));
	must(chmod("upper", like.st_mode & 07777));
	overlay = new_mount("overlay", options, userxattr ? 4 : 3, 0);
	must_named("umount2", umount2(".", MNT_DETACH));
	must(chdir("/"));
	close(found);
	close(lower);
	close(at_lower);
	close(scratch);
	attach(overlay, target, true);
}

void step_bind(struct reader *reader)
{
	const char *source = read_text(reader), *target = read_text(reader);
	uint64_t attributes = read_attributes(reader);
	bool idmap = read_byte(reader), recursive = read_byte(reader);
	int found = open_source(source, false), tree;
	struct stat status;

	must(fstat(found, &status));
	tree = tree_of(found, source, idmap, recursive);
	close(found);
	set_attributes(tree, attributes, recursive);
	attach(tree, target, S_ISDIR(status.st_mode));
}

void step_mount(struct reader *reader)
{
	const char *type = read_text(reader), *target = read_text(reader);
	uint64_t attributes = read_attributes(reader);
	uint32_t count = read_length(reader);
	struct option *options = calloc((size_t)count + 1, sizeof(*options));

	if (!options)
		fail_errno(ENOMEM, "%s", strerror(ENOMEM));
	for (uint32_t i = 0; i < count; i++) {
		options[i].key = read_text(reader);
		options[i].value = read_optional_text(reader);
	}
	attach(new_mount(type, options, count, attributes), target, true);
	free(options);
}

/* A clone of the mount at a target that is there. */
static int clone_target(const char *target)
{
	int found = (int)must_named("openat2", resolve(target)), clone = clone_tree(found, false);

	close(found);
	return clone;
}

/* One empty file system is over all directories: to the kernel each one is as much as another /proc. */
static int empty_directory(const char *target)
{
	static const struct option options[] = {{"size", "4k"}, {"mode", "0"}};

	if (building.hidden)
		return clone_target(building.hidden);
	building.hidden = target;
	return new_mount("tmpfs", options, 2, STRICT);
}

void step_mask_path(struct reader *reader)
{
	const char *target = read_text(reader);
	int found = resolve(target), cover;
	struct stat status;

	if (found < 0)
		return;
	must(fstat(found, &status));
	cover = S_ISDIR(status.st_mode) ? empty_directory(target) : clone_target("/dev/null");
	move_to(cover, found);
	close(cover);
	close(found);
}

void step_read_only_path(struct reader *reader)
{
	int found = resolve(read_text(reader)), tree;

	if (found < 0)
		return;
	tree = clone_tree(found, true);
	set_attributes(tree, MOUNT_ATTR_RDONLY, true);
	move_to(tree, found);
	close(tree);
	close(found);
}

void step_root_flags(struct reader *reader)
{
	set_attributes(new_root(), read_attributes(reader), false);
}

void step_pivot_root(struct reader *reader)
{
	(void)reader;
	must(fchdir(new_root()));
	/* The old root lands on top of the new one, from where it is detached: pivot_root(2), "pivot_root(".", ".")". */
	must_named("pivot_root", syscall(SYS_pivot_root, ".", "."));
	must_named("umount2", umount2(".", MNT_DETACH));
	enter_root();
}

void step_chroot(struct reader *reader)
{
	(void)reader;
	must(fchdir(new_root()));
	must(chroot("."));
	enter_root();
}
