/* Plans and requests, as pysuper.launcher.native writes them: a byte, integers of 64 bits, strings with their length. */
#include "launcher.h"

#define NONE 0xffffffff

static void take(struct reader *reader, void *target, size_t size)
{
	if ((size_t)(reader->end - reader->at) < size)
		fail_launcher("ValueError: the plan is cut off");
	memcpy(target, reader->at, size);
	reader->at += size;
}

uint8_t read_byte(struct reader *reader)
{
	uint8_t value;

	take(reader, &value, sizeof(value));
	return value;
}

int64_t read_integer(struct reader *reader)
{
	int64_t value;

	take(reader, &value, sizeof(value));
	return value;
}

uint32_t read_length(struct reader *reader)
{
	uint32_t value;

	take(reader, &value, sizeof(value));
	return value;
}

static struct content content_of(struct reader *reader, uint32_t length)
{
	struct content content = {reader->at, length};

	/* With the NUL that follows it. */
	if ((size_t)(reader->end - reader->at) <= length || content.bytes[length])
		fail_launcher("ValueError: the plan is cut off");
	reader->at += (size_t)length + 1;
	return content;
}

static const char *text_of(struct content content)
{
	/* The kernel would take what comes before it for the whole. */
	if (strlen(content.bytes) != content.length)
		fail_launcher("ValueError: embedded null byte");
	return content.bytes;
}

struct content read_content(struct reader *reader)
{
	return content_of(reader, read_length(reader));
}

const char *read_text(struct reader *reader)
{
	return text_of(read_content(reader));
}

const char *read_optional_text(struct reader *reader)
{
	uint32_t length = read_length(reader);

	return length == NONE ? NULL : text_of(content_of(reader, length));
}

struct list read_list(struct reader *reader)
{
	uint32_t length = read_length(reader);
	struct list list = {NULL, length};

	/* Each takes at least five bytes. */
	if (length > (size_t)(reader->end - reader->at) / 5 ||
	    !(list.items = calloc((size_t)length + 1, sizeof(*list.items))))
		fail_launcher("ValueError: the plan is cut off");
	for (uint32_t i = 0; i < length; i++)
		list.items[i] = (char *)read_text(reader);
	return list;
}
