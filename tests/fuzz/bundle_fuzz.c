/* Any bytes as the policy that another process left in the segment: refused, or a text that
 * is the same when it is packed and unpacked once more. */
#include "policy.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct way_policy_text t, again;
    struct way_limits limits;
    struct way_err err = { "" };
    way_limits_default(&limits);
    memset(&t, 0, sizeof t);
    if (way_policy_unpack(&t, (struct way_span){ (const char *)data, size }, &limits,
                          &err) < 0) {
        expect(err.text[0]);
    } else {
        struct way_buf bytes = { 0 };
        memset(&again, 0, sizeof again);
        way_policy_pack(&t, &bytes);
        struct way_span span = { bytes.p + bytes.off, way_buf_held(&bytes) };
        expect(way_policy_unpack(&again, span, &limits, &err) == 0);
        expect(again.n == t.n && again.options == t.options);
        way_policy_text_fini(&again);
        way_buf_fini(&bytes);
    }
    way_policy_text_fini(&t);
    return 0;
}
