/* policy_rows - the table of classes, compiled from a policy's rows.
 *
 * A row is a few masks and, rarely, lists of numbers or texts; the first that matches
 * wins. Checked and put into numbers by core/runtime/check.lua; here they only become C. */
#include "policy_rows.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>

enum field { ERRNO, N, REPLIES_READ, BYTES_WRITTEN, ATTEMPT, MESSAGE, REPLY };
static const char *const number_fields[] = { "errno", "n", "replies_read",
                                             "bytes_written", "attempt" };
static const char *const text_fields[] = { "message", "reply" };

static uint32_t mask(lua_State *L, const char *name)
{
    lua_getfield(L, -1, name);
    uint32_t bits = (uint32_t)(int64_t)lua_tonumber(L, -1);
    lua_pop(L, 1);
    return bits;
}

static int8_t flag(lua_State *L, const char *name)
{
    lua_getfield(L, -1, name);
    int8_t value = lua_isboolean(L, -1) ? (int8_t)lua_toboolean(L, -1) : -1;
    lua_pop(L, 1);
    return value;
}

/* The list on top becomes a condition of the row. The row owns what is allocated at once,
 * so that a raise leaks nothing. */
static void add_condition(lua_State *L, struct way_row *row, enum field field)
{
    if (lua_isnil(L, -1))
        return;
    struct way_condition *c = &row->condition[row->conditions++];
    unsigned count = (unsigned)lua_objlen(L, -1);
    c->field = (uint8_t)field;
    if (field < MESSAGE)
        c->number = way_zalloc(count * sizeof *c->number);
    else
        c->text = way_zalloc(count * sizeof *c->text);
    for (unsigned i = 0; i < count; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        if (c->number)
            c->number[i] = lua_tonumber(L, -1);
        else
            c->text[i] = way_strdup(lua_tostring(L, -1));
        c->count++;
        lua_pop(L, 1);
    }
}

static void add_conditions(lua_State *L, struct way_row *row, const char *group,
                           const char *const *names, unsigned count, enum field first)
{
    lua_getfield(L, -1, group);
    for (unsigned i = 0; i < count; i++) {
        lua_getfield(L, -1, names[i]);
        add_condition(L, row, (enum field)(first + i));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void compile_row(lua_State *L, struct way_row *row)
{
    row->kinds = mask(L, "kind");
    row->phases = mask(L, "phase");
    row->steps = mask(L, "step");
    row->errors = mask(L, "error");
    row->reused = flag(L, "reused");
    row->trial = flag(L, "trial");
    row->permanent = flag(L, "permanent") > 0;
    row->class = (uint8_t)mask(L, "class");
    add_conditions(L, row, "numbers", number_fields, way_count(number_fields), ERRNO);
    add_conditions(L, row, "texts", text_fields, way_count(text_fields), MESSAGE);
}

static void name_classes(struct way_policy *p, lua_State *L)
{
    unsigned n = WAY_CLASS_BUILTIN;
    for (unsigned i = 0; i < n; i++) {
        snprintf(p->class_name[i], WAY_CLASS_NAME, "%s", way_class_name(i));
        p->class_blame[i] = (uint8_t)way_class_blame(i);
        p->class_permanent[i] =
            i == WAY_CLASS_CONFIG || i == WAY_CLASS_CALLER || i == WAY_CLASS_ANSWER;
    }
    lua_getfield(L, -1, "classes");
    for (unsigned i = 1; i <= lua_objlen(L, -1) && n < WAY_CLASSES_MAX; i++, n++) {
        lua_rawgeti(L, -1, (int)i);
        lua_getfield(L, -1, "name");
        snprintf(p->class_name[n], WAY_CLASS_NAME, "%s", lua_tostring(L, -1));
        lua_pop(L, 1);
        p->class_blame[n] = (uint8_t)mask(L, "blame");
        p->class_permanent[n] = p->class_blame[n] == WAY_BLAME_CONFIG ||
                                p->class_blame[n] == WAY_BLAME_CALLER;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    p->plan.classes = n;
}

void way_rows_compile(struct way_policy *p, lua_State *L)
{
    name_classes(p, L);
    lua_getfield(L, -1, "rows");
    unsigned count = (unsigned)lua_objlen(L, -1);
    p->rows.row = way_zalloc((count + 1) * sizeof *p->rows.row);
    for (unsigned i = 0; i < count; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        p->rows.count++;
        compile_row(L, &p->rows.row[i]);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

void way_rows_fini(struct way_rows *rows)
{
    for (unsigned i = 0; i < rows->count; i++) {
        for (unsigned k = 0; k < rows->row[i].conditions; k++) {
            struct way_condition *c = &rows->row[i].condition[k];
            for (unsigned t = 0; c->text && t < c->count; t++)
                way_free(c->text[t]);
            way_free(c->text);
            way_free(c->number);
        }
    }
    way_free(rows->row);
}

static double number_of(const struct way_event *e, enum field field)
{
    switch (field) {
    case ERRNO: return e->errnum;
    case N: return e->n;
    case REPLIES_READ: return e->replies_read;
    case BYTES_WRITTEN: return (double)e->bytes_written;
    default: return e->attempt;
    }
}

static bool holds(const struct way_condition *c, const struct way_event *e)
{
    for (unsigned i = 0; i < c->count; i++) {
        if (c->field == MESSAGE ? strstr(e->message, c->text[i]) != NULL
            : c->field == REPLY ? !strcmp(e->reply, c->text[i])
                                : number_of(e, (enum field)c->field) == c->number[i])
            return true;
    }
    return false;
}

static bool matches(const struct way_row *r, const struct way_event *e)
{
    if ((r->errors && !(r->errors & 1u << e->error)) ||
        (r->phases && !(r->phases & 1u << e->phase)) ||
        (r->steps && !(r->steps & 1u << e->step)) ||
        (r->kinds && !(r->kinds & 1u << e->kind)) ||
        (r->reused >= 0 && r->reused != e->reused) ||
        (r->trial >= 0 && r->trial != e->trial))
        return false;
    for (unsigned i = 0; i < r->conditions; i++)
        if (!holds(&r->condition[i], e))
            return false;
    return true;
}

bool way_rows_match(const struct way_rows *rows, struct way_event *e)
{
    for (unsigned i = 0; i < rows->count; i++) {
        const struct way_row *r = &rows->row[i];
        if (matches(r, e)) {
            e->class = r->class;
            e->permanent = r->permanent;
            return true;
        }
    }
    return false;
}
