/* Any bytes as a line of a journal: refused with a reason, or an entry that is the same
 * when it is written and read once more. */
#include "jsonline.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool holds)
{
    if (!holds)
        abort();
}

static void read_again(const struct way_entry *e)
{
    struct way_jsonline again = { .kind = WAY_JSONLINE_HEADER };
    struct way_buf line = { 0 };
    struct way_err err = { "" };
    way_jsonline_entry(&line, e);
    const char *p = line.p + line.off;
    size_t n = way_buf_held(&line);
    expect(n > 1 && p[n - 1] == '\n');
    expect(way_jsonline_read(&again, p, n - 1, &err) == 0);
    expect(again.kind == WAY_JSONLINE_ENTRY && again.entry.seq == e->seq);
    expect(again.entry.function == e->function && again.entry.seed == e->seed);
    way_jsonline_fini(&again);
    way_buf_fini(&line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct way_jsonline r = { .kind = WAY_JSONLINE_HEADER };
    struct way_err err = { "" };
    int rc = way_jsonline_read(&r, (const char *)data, size, &err);
    expect(rc == 0 || (rc == -1 && err.text[0]));
    if (rc == 0 && r.kind == WAY_JSONLINE_ENTRY)
        read_again(&r.entry);
    way_jsonline_fini(&r);
    return 0;
}
