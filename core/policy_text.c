/* policy_text - the bytes of a policy: read whole or not at all, kept, packed. */
#include "policy_text.h"

#include "file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- reading ---- */

static int read_file(const char *path, char **text, size_t *n, struct way_err *err)
{
    if (way_file_read(path, WAY_SCRIPT_TEXT, text, n, err) < 0)
        return -1;
    if (!*n || **text != '\x1b')
        return 0;
    way_free(*text);
    *text = NULL; /* who reads into a policy's text frees that */
    return way_fail(err, "%s: bytecode, expected Lua text", path);
}

/* The folder that a path's file really lies in, by way of all links; false: there is no
 * such file. */
static bool real_folder(const char *path, char folder[WAY_PATH_BYTES])
{
    if (!realpath(path, folder))
        return false;
    *strrchr(folder, '/') = 0;
    return true;
}

/* Reads a file beside the policy: where the policy's path says it is, and, links followed,
 * where that folder or the policy's file really is. So a folder of links to a versioned
 * one works, and a link to anywhere else does not. */
static int read_sibling(const struct way_policy_text *t, const char *file, char **text,
                        size_t *n, struct way_err *err)
{
    char path[WAY_PATH_BYTES], there[WAY_PATH_BYTES], beside[WAY_PATH_BYTES];
    struct stat st;
    const char *slash = strrchr(t->path, '/');
    int folder = slash ? (int)(slash - t->path) : 1;
    snprintf(path, sizeof path, "%.*s/%s", folder, slash ? t->path : ".", file);
    if (!real_folder(path, there) || stat(path, &st) < 0)
        return way_fail(err, "%s: %s", path, strerror(errno));
    bool is_beside = real_folder(t->path, beside) && !strcmp(there, beside);
    path[folder] = 0;
    if (!is_beside &&
        (!realpath(*path ? path : "/", beside) || strcmp(there, beside) != 0))
        return way_fail(err, "%s: a link out of the policy's folder", file);
    path[folder] = '/';
    if (!S_ISREG(st.st_mode))
        return way_fail(err, "%s: not a regular file", path);
    return read_file(path, text, n, err);
}

int way_policy_read_beside(const struct way_policy_text *t, const char *file, char **text,
                           size_t *n, struct way_err *err)
{
    if (!t->sealed)
        return read_sibling(t, file, text, n, err);
    for (unsigned i = 0; i < t->besides; i++)
        if (!strcmp(t->beside[i].name, file)) {
            *n = t->beside[i].n;
            *text = way_strndup(t->beside[i].text, *n);
            return 0;
        }
    return way_fail(err, "%s: not one of the files that were read with the policy", file);
}

const struct way_runtime_file *way_policy_built_in(void)
{
    const struct way_runtime_file *f = way_runtime_files;
    while (f->name && strcmp(f->name, "policies/default.lua") != 0)
        f++;
    return f->name ? f : NULL;
}

static void copy_options(struct way_policy_text *t, const struct way_option *option,
                         unsigned options)
{
    t->option = way_zalloc((options + 1) * sizeof *t->option);
    t->options = options;
    for (unsigned i = 0; i < options; i++) {
        t->option[i] = option[i];
        t->option[i].name = way_strdup(option[i].name);
        t->option[i].text = option[i].text ? way_strdup(option[i].text) : NULL;
    }
}

static void bound(struct way_policy_text *t, const struct way_limits *limits)
{
    t->instructions = limits ? limits->instructions : 0;
    t->wall = limits ? limits->policy_wall : 0;
    t->memory = limits ? limits->policy_memory : 0;
}

int way_policy_read(struct way_policy_text *t, const char *path,
                    const struct way_option *option, unsigned options,
                    const struct way_limits *limits, struct way_err *err)
{
    memset(t, 0, sizeof *t);
    const char *name = path ? path : "default";
    const struct way_runtime_file *file = way_policy_built_in();
    if (!strcmp(name, "default")) {
        if (!file)
            return way_fail(err, "policies/default.lua is not part of this program");
        t->text = way_strndup(file->text, file->size);
        t->n = file->size;
    } else if (strcmp(name, "none") != 0) {
        if (read_file(name, &t->text, &t->n, err) < 0)
            return -1;
    } else if (options) {
        return way_fail(err, "option %s: the policy is none, which has no options",
                        option[0].name);
    }
    t->path = way_strdup(name);
    copy_options(t, option, options);
    bound(t, limits);
    return 0;
}

/* ---- keeping ---- */

void way_policy_text_fini(struct way_policy_text *t)
{
    for (unsigned i = 0; i < t->options; i++) {
        way_free(t->option[i].name);
        way_free(t->option[i].text);
    }
    for (unsigned i = 0; i < t->besides; i++) {
        way_free(t->beside[i].name);
        way_free(t->beside[i].text);
    }
    way_free(t->beside);
    way_free(t->option);
    way_free(t->path);
    way_free(t->text);
    memset(t, 0, sizeof *t);
}

static void add_beside(struct way_policy_text *t, const char *name, size_t name_n,
                       const char *text, size_t n)
{
    if (!t->beside)
        t->beside = way_zalloc(WAY_SIBLINGS_MAX * sizeof *t->beside);
    t->beside[t->besides++] =
        (struct way_policy_beside){ way_strndup(name, name_n), way_strndup(text, n), n };
}

void way_policy_text_copy(struct way_policy_text *to, const struct way_policy_text *from)
{
    *to = *from;
    to->path = way_strdup(from->path);
    to->text = from->text ? way_strndup(from->text, from->n) : NULL;
    copy_options(to, from->option, from->options);
    to->beside = NULL;
    to->besides = 0;
    for (unsigned i = 0; i < from->besides; i++)
        add_beside(to, from->beside[i].name, strlen(from->beside[i].name),
                   from->beside[i].text, from->beside[i].n);
}

/* Of the files of a loaded policy those that it required have plain names: its own has the
 * policy's place, the default's a folder. */
void way_policy_seal(struct way_policy_text *t, const struct way_policy *p)
{
    if (t->sealed)
        return;
    for (unsigned i = 1; i < p->files && t->besides < WAY_SIBLINGS_MAX; i++)
        if (!strchr(p->file[i].name, '/'))
            add_beside(t, p->file[i].name, strlen(p->file[i].name), p->file[i].text,
                       p->file[i].n);
    t->sealed = true;
}

/* ---- packing ----
 *
 * Words of eight bytes and texts behind their length:
 *   path, 0 or 1, text if 1, options, each: name, type, number, 0 or 1, text if 1,
 *   files, each: name, text */

static void pack_word(struct way_buf *out, uint64_t w)
{
    way_buf_put(out, &w, sizeof w);
}

static void pack_text(struct way_buf *out, const char *text, size_t n)
{
    pack_word(out, n);
    way_buf_put(out, text, n);
}

static void pack_option(struct way_buf *out, const struct way_option *o)
{
    uint64_t number;
    memcpy(&number, &o->number, sizeof number);
    pack_text(out, o->name, strlen(o->name));
    pack_word(out, o->type);
    pack_word(out, number);
    pack_word(out, o->text != NULL);
    if (o->text)
        pack_text(out, o->text, strlen(o->text));
}

void way_policy_pack(const struct way_policy_text *t, struct way_buf *out)
{
    pack_text(out, t->path, strlen(t->path));
    pack_word(out, t->text != NULL);
    if (t->text)
        pack_text(out, t->text, t->n);
    pack_word(out, t->options);
    for (unsigned i = 0; i < t->options; i++)
        pack_option(out, &t->option[i]);
    pack_word(out, t->besides);
    for (unsigned i = 0; i < t->besides; i++) {
        pack_text(out, t->beside[i].name, strlen(t->beside[i].name));
        pack_text(out, t->beside[i].text, t->beside[i].n);
    }
}

struct unpacking {
    struct way_span left;
    bool bad;
};

static uint64_t unpack_word(struct unpacking *u)
{
    uint64_t w = 0;
    if (u->bad || u->left.n < sizeof w) {
        u->bad = true;
        return 0;
    }
    memcpy(&w, u->left.p, sizeof w);
    u->left.p += sizeof w;
    u->left.n -= sizeof w;
    return w;
}

/* Never NULL; `whole`: without NUL in it. */
static char *unpack_text(struct unpacking *u, size_t *n, bool whole)
{
    uint64_t len = unpack_word(u);
    if (u->bad || len > u->left.n || len > WAY_SCRIPT_TEXT) {
        u->bad = true;
        len = 0;
    }
    char *text = way_strndup(len ? u->left.p : "", len);
    u->bad |= whole && strlen(text) != len;
    u->left.p += len;
    u->left.n -= len;
    if (n)
        *n = len;
    return text;
}

static uint64_t unpack_count(struct unpacking *u, uint64_t most)
{
    uint64_t n = unpack_word(u);
    u->bad |= n > most;
    return u->bad ? 0 : n;
}

static void unpack_options(struct unpacking *u, struct way_policy_text *t)
{
    enum { OPTIONS_MOST = 256 };
    uint64_t n = unpack_count(u, OPTIONS_MOST);
    t->option = way_zalloc((n + 1) * sizeof *t->option);
    for (; t->options < n && !u->bad; t->options++) {
        struct way_option *o = &t->option[t->options];
        o->name = unpack_text(u, NULL, true);
        uint64_t type = unpack_count(u, WAY_OPTION_BOOLEAN), number = unpack_word(u);
        o->type = (enum way_option_type)type;
        memcpy(&o->number, &number, sizeof number);
        if (unpack_count(u, 1))
            o->text = unpack_text(u, NULL, true);
        u->bad |= !o->text && type != WAY_OPTION_NUMBER && type != WAY_OPTION_BOOLEAN;
    }
}

static void unpack_besides(struct unpacking *u, struct way_policy_text *t)
{
    for (uint64_t n = unpack_count(u, WAY_SIBLINGS_MAX); n && !u->bad; n--) {
        size_t bytes;
        char *name = unpack_text(u, NULL, true), *text = unpack_text(u, &bytes, false);
        add_beside(t, name, strlen(name), text, bytes);
        way_free(name);
        way_free(text);
    }
}

int way_policy_unpack(struct way_policy_text *t, struct way_span bytes,
                      const struct way_limits *limits, struct way_err *err)
{
    struct unpacking u = { .left = bytes };
    memset(t, 0, sizeof *t);
    t->path = unpack_text(&u, NULL, true);
    if (unpack_count(&u, 1))
        t->text = unpack_text(&u, &t->n, false);
    unpack_options(&u, t);
    unpack_besides(&u, t);
    t->sealed = true;
    bound(t, limits);
    if (!u.bad && !u.left.n)
        return 0;
    way_policy_text_fini(t);
    return way_fail(err, "the policy in the segment is not whole");
}
