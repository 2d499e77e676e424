/* reload_call - see reload_call.h. Synchronous: there is nothing else to do meanwhile. */
#include "reload_call.h"

#include "slots.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

enum { CONNECT_SECONDS = 5, ANSWER_SECONDS = 60, WORDS = 18 };

static redisContext *connect_to(const char *console, struct way_err *err)
{
    const struct timeval wait = { .tv_sec = CONNECT_SECONDS };
    char host[WAY_HOST_MAX];
    uint16_t port;
    redisContext *c = NULL;
    if (!strncmp(console, "unix:", 5))
        c = redisConnectUnixWithTimeout(console + 5, wait);
    else if (way_split_address(console, strlen(console), host, &port, err) == 0)
        c = redisConnectWithTimeout(!strcmp(host, "*") ? "127.0.0.1" : host, port, wait);
    if (!c || !c->err)
        return c;
    way_fail(err, "console %s: %s", console, c->errstr);
    redisFree(c);
    return NULL;
}

/* Of a map as RESP2 has it: the value of that name, or NULL. */
static const redisReply *field(const redisReply *map, const char *name)
{
    if (map->type != REDIS_REPLY_ARRAY)
        return NULL;
    for (size_t i = 0; i + 1 < map->elements; i += 2)
        if (map->element[i]->type == REDIS_REPLY_STRING &&
            !strcmp(map->element[i]->str, name))
            return map->element[i + 1];
    return NULL;
}

static const char *text_of(const redisReply *map, const char *name)
{
    const redisReply *r = field(map, name);
    return r && r->type == REDIS_REPLY_STRING ? r->str : "";
}

static void say(const redisReply *r, struct way_buf *said)
{
    const redisReply *threads = field(r, "threads");
    way_buf_printf(said, "%s: policy %s %s, file %s\n", text_of(r, "reload"),
                   text_of(r, "name"), text_of(r, "version"), text_of(r, "file"));
    for (size_t i = 0;
         threads && threads->type == REDIS_REPLY_ARRAY && i < threads->elements; i++) {
        const redisReply *t = threads->element[i], *n = field(t, "thread");
        if (n && n->type == REDIS_REPLY_INTEGER)
            way_buf_printf(said, "worker %lld:", n->integer);
        else
            way_buf_puts(said, "control:");
        way_buf_printf(said, " version %s hash %s\n", text_of(t, "version"),
                       text_of(t, "hash"));
    }
}

static int take_answer(const redisReply *r, struct way_buf *said, struct way_err *err)
{
    if (r->type == REDIS_REPLY_ERROR)
        return way_fail(err, "%s", strncmp(r->str, "ERR ", 4) ? r->str : r->str + 4);
    say(r, said);
    return field(r, "late") ? way_fail(err, "it is in charge, but some threads are late")
                            : 0;
}

int way_reload_call(const char *console, unsigned words, const char *const *word,
                    struct way_buf *said, struct way_err *err)
{
    const struct timeval wait = { .tv_sec = ANSWER_SECONDS };
    const char *argv[WORDS] = { "WAYSIDE", "RELOAD" };
    if (words > WORDS - 2)
        return way_fail(err, "reload: expected at most %d words, got %u", WORDS - 2,
                        words);
    for (unsigned i = 0; i < words; i++)
        argv[2 + i] = word[i];
    redisContext *c = connect_to(console, err);
    if (!c)
        return -1;
    redisSetTimeout(c, wait);
    redisReply *r = redisCommandArgv(c, (int)words + 2, argv, NULL);
    int rc = r ? take_answer(r, said, err)
               : way_fail(err, "console %s: no answer: %s", console, c->errstr);
    freeReplyObject(r);
    redisFree(c);
    return rc;
}
