/*
 * A user of the container, from its own /etc/passwd and /etc/group, passwd(5), group(5).
 *
 * Read by hand: the C library's look-ups would load modules from the container's root file system.
 */
#include "launcher.h"

#include <limits.h>

#define MOST_FIELDS 7
#define MOST_BYTES (1 << 20)

static bool is_decimal(const char *text)
{
	return *text && !text[strspn(text, "0123456789")];
}

static long number_of(const char *text, const char *kind)
{
	unsigned long number;

	if (!is_decimal(text)) {
		char shown[256];
		python_text(shown, sizeof(shown), text);
		fail_launcher("ValueError: invalid literal for int() with base 10: %s", shown);
	}
	errno = 0;
	number = strtoul(text, NULL, 10);
	if (errno || number > LONG_MAX || number == UINT32_MAX) /* which would mean "no change", setresuid(2) */
		fail_launcher("OverflowError: %s is greater than maximum", kind);
	if (number > UINT32_MAX)
		fail_launcher("OverflowError: %s is less than minimum", kind); /* as Python has it */
	return (long)number;
}

/* Its content, which is the caller's to change and to free; empty if there is none. */
static char *read_file(const char *path)
{
	/* The container's image made this file; it may be a FIFO, or endless. */
	int file = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	char *content = calloc(1, MOST_BYTES + 1);
	struct stat status;

	if (!content)
		fail_errno(ENOMEM, "%s", strerror(ENOMEM));
	if (file < 0)
		return content;
	must(fstat(file, &status));
	if (S_ISREG(status.st_mode))
		must(read(file, content, MOST_BYTES));
	close(file);
	return content;
}

/* The next line that has so many fields, and a number in the third; false if there is none. */
static bool next_line(char **at, char *fields[MOST_FIELDS], int count)
{
	while (**at) {
		char *line = *at, *end = line + strcspn(line, "\n\r\v\f\x1c\x1d\x1e");
		int found = 0;
		*at = end + (*end != 0);
		*end = 0;
		for (char *field = line; field; found++) {
			char *colon = strchr(field, ':');
			if (found < MOST_FIELDS)
				fields[found] = field;
			if (colon)
				*colon++ = 0;
			field = colon;
		}
		if (found == count && is_decimal(fields[2]))
			return true;
	}
	return false;
}

/* The line of a name, or of a number. */
static bool find_line(char *content, const char *key, char *fields[MOST_FIELDS], int count)
{
	int column = is_decimal(key) ? 2 : 0;

	while (next_line(&content, fields, count))
		if (!strcmp(fields[column], key))
			return true;
	return false;
}

static bool lists(char *members, const char *login)
{
	for (char *member; (member = strsep(&members, ","));)
		if (!strcmp(member, login))
			return true;
	return false;
}

static void find_groups(struct account *account, const char *login)
{
	char *content = read_file("/etc/group"), *at = content, *fields[MOST_FIELDS];

	while (next_line(&at, fields, 4)) {
		if (!lists(fields[3], login))
			continue;
		account->groups = realloc(account->groups, (account->group_count + 1) * sizeof(*account->groups));
		if (!account->groups)
			fail_errno(ENOMEM, "%s", strerror(ENOMEM));
		account->groups[account->group_count++] = (gid_t)number_of(fields[2], "gid");
	}
	free(content);
}

/* `NAME|UID[:GROUP|GID]` */
struct account find_account(const char *user)
{
	struct account account = {.home = "/", .shell = "/bin/sh"};
	char *name = strdup(user), *group = strchr(name, ':'), *fields[MOST_FIELDS], *content, shown[256];
	bool found;

	if (group)
		*group++ = 0;
	content = read_file("/etc/passwd");
	found = find_line(content, name, fields, 7);
	if (!found && !is_decimal(name)) {
		python_text(shown, sizeof(shown), name);
		fail("/etc/passwd of the container has no user %s", shown);
	}
	account.uid = (uid_t)number_of(found ? fields[2] : name, "uid");
	if (found) {
		account.gid = (gid_t)number_of(fields[3], "gid");
		account.home = *fields[5] ? strdup(fields[5]) : "/";
		account.shell = *fields[6] ? strdup(fields[6]) : "/bin/sh";
		if (strcmp(fields[0], "root"))
			find_groups(&account, fields[0]);
	}
	free(content);
	if (group && *group) {
		content = read_file("/etc/group");
		found = find_line(content, group, fields, 4);
		if (!found && !is_decimal(group)) {
			python_text(shown, sizeof(shown), group);
			fail("/etc/group of the container has no group %s", shown);
		}
		account.gid = (gid_t)number_of(found ? fields[2] : group, "gid");
		free(content);
	}
	free(name);
	return account;
}
