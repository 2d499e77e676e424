/* main - the command line of the daemon: serve, check, reload, replay, ctl, test, --help,
 * --version.
 *
 * A thin user of config, policy and wayside. Says on standard error what went wrong; the
 * host itself says when it serves. Tells systemd, if that started it, when it is ready
 * and when it stops. */
#include "base.h"
#include "config.h"
#include "ctl.h"
#include "log.h"
#include "options.h"
#include "policy.h"
#include "daemon.h"
#include "replay.h"
#include "spec.h"
#include "reload_call.h"

#include <ares.h>
#include <ev.h>
#include <hiredis/hiredis.h>
#include <luajit.h>
#include <microhttpd.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>

enum { EXIT_GOOD = 0, EXIT_BAD = 1, EXIT_USAGE = 2 };
enum { EXIT_SAME = 0, EXIT_DIFFERS = 1, EXIT_BAD_INPUT = 2 }; /* of replay */

static int fail(const struct way_err *err, int status)
{
    fprintf(stderr, "wayside: %s\n", err->text);
    if (status == EXIT_USAGE)
        fputs("wayside: see wayside --help\n", stderr);
    return status;
}

/* Those that run, not those that were compiled against, where a library can tell. */
static void print_versions(void)
{
    printf("wayside %s\n", WAY_VERSION);
    printf("%s\n", LUAJIT_VERSION);
    printf("hiredis %d.%d.%d\n", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
    printf("libev %d.%d\n", ev_version_major(), ev_version_minor());
    printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
    printf("c-ares %s\n", ares_version(NULL));
    printf("libmicrohttpd %s\n", MHD_get_version());
}

/* Each client and each connection to a node is a descriptor; the soft limit is meant for
 * programs that use select(2). */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* --- serve --- */

/* The file, the flags over it: what a start would serve now. */
static int read_config(void *arg, struct way_config *c, struct way_err *err)
{
    const struct way_options *o = arg;
    if (o->config && way_config_load(c, o->config, err) < 0)
        return -1;
    return way_options_apply(o, c, err) < 0 ? -1 : way_config_check(c, err);
}

static int run(const struct way_config *c, const struct way_options *o)
{
    struct way_err err;
    struct way_daemon *w;
    if (c->log_level)
        way_log_level((enum way_level)way_log_level_named(c->log_level));
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like a full disk */
    raise_descriptor_limit();
    if (way_daemon_start(&w, c, read_config, (void *)(uintptr_t)o, &err) < 0)
        return fail(&err, EXIT_BAD);
    sd_notify(0, "READY=1");
    way_daemon_wait(w);
    sd_notify(0, "STOPPING=1");
    way_daemon_free(w);
    return EXIT_GOOD;
}

static int serve(const struct way_options *o)
{
    struct way_config c;
    struct way_err err;
    int status = EXIT_GOOD;
    way_config_init(&c);
    if (o->config && way_config_load(&c, o->config, &err) < 0)
        status = fail(&err, EXIT_BAD);
    else if (way_options_apply(o, &c, &err) < 0)
        status = fail(&err, EXIT_USAGE);
    else if (way_config_check(&c, &err) < 0)
        status = fail(&err, EXIT_BAD);
    else
        status = run(&c, o);
    way_config_fini(&c);
    return status;
}

/* --- check --- */

/* Loads the policy as serve would, and says what it is. */
static int check_policy(const struct way_config *c, struct way_buf *said,
                        struct way_err *err)
{
    struct way_policy_text text;
    struct way_policy *policy;
    if (way_policy_read(&text, c->policy, c->option, c->options, &c->limits, err) < 0)
        return -1;
    int result = way_policy_load(&policy, &text, err);
    if (result == 0) {
        const struct way_plan *plan = way_policy_plan(policy);
        way_buf_printf(said, "policy %s%s%s", plan->name, *plan->version ? " " : "",
                       plan->version);
        way_policy_free(policy);
    }
    way_policy_text_fini(&text);
    return result;
}

static int check_file(const struct way_options *o, const char *file, struct way_buf *said,
                      struct way_err *err)
{
    struct way_config c;
    int result;
    way_config_init(&c);
    if (way_config_is_policy(file)) {
        result = way_options_apply(o, &c, err);
        if (result == 0)
            result = way_config_flag(&c, "policy", file, err);
        if (result == 0)
            result = check_policy(&c, said, err);
    } else {
        way_buf_puts(said, "configuration with ");
        result = way_config_load(&c, file, err);
        if (result == 0)
            result = way_options_apply(o, &c, err);
        if (result == 0)
            result = way_config_check(&c, err);
        if (result == 0 && check_policy(&c, said, err) < 0)
            result = way_fail_in(err, "%s: policy", file);
    }
    way_config_fini(&c);
    return result;
}

/* Flags are judged once, before any file, for the fault is not the file's. */
static int check_flags(const struct way_options *o)
{
    struct way_config c;
    struct way_err err;
    way_config_init(&c);
    int status = way_options_apply(o, &c, &err) < 0 ? fail(&err, EXIT_USAGE) : EXIT_GOOD;
    way_config_fini(&c);
    return status;
}

static int check(const struct way_options *o)
{
    int status = check_flags(o);
    if (status != EXIT_GOOD)
        return status;
    for (unsigned i = 0; i < o->files; i++) {
        struct way_buf said = { 0 };
        struct way_err err;
        if (check_file(o, o->file[i], &said, &err) < 0)
            status = fail(&err, EXIT_BAD);
        else
            printf("%s: ok (%.*s)\n", o->file[i], (int)way_buf_held(&said), said.p);
        way_buf_fini(&said);
    }
    return status;
}

/* --- reload --- */

/* A policy is named from here, whatever the folder of the host that serves. */
static char *from_here(const char *word)
{
    char path[4096];
    bool plain = !strchr(word, '=') && strcmp(word, "default") && strcmp(word, "none");
    return way_strdup(plain && realpath(word, path) ? path : word);
}

static int call(const char *console, const struct way_options *o)
{
    struct way_buf said = { 0 };
    struct way_err err;
    char **word = way_zalloc((o->files + 1) * sizeof *word);
    for (unsigned i = 0; i < o->files; i++)
        word[i] = from_here(o->file[i]);
    int rc = way_reload_call(console, o->files, (const char *const *)word, &said, &err);
    printf("%.*s", (int)way_buf_held(&said), said.p ? said.p : "");
    for (unsigned i = 0; i < o->files; i++)
        way_free(word[i]);
    way_free(word);
    way_buf_fini(&said);
    return rc < 0 ? fail(&err, EXIT_BAD) : EXIT_GOOD;
}

static int reload(const struct way_options *o)
{
    struct way_config c;
    struct way_err err;
    int status;
    way_config_init(&c);
    if (o->config && way_config_load(&c, o->config, &err) < 0)
        status = fail(&err, EXIT_BAD);
    else if (way_options_apply(o, &c, &err) < 0)
        status = fail(&err, EXIT_USAGE);
    else if (c.console)
        status = call(c.console, o);
    else {
        way_fail(&err,
                 "reload: expected the host's console: --console ADDRESS, or -c FILE "
                 "of a configuration with admin.console");
        status = fail(&err, EXIT_USAGE);
    }
    way_config_fini(&c);
    return status;
}

/* --- replay --- */

static int replay_text(const struct way_options *o, const struct way_config *c,
                       const struct way_policy_text *text)
{
    struct way_replay_totals totals;
    struct way_err err;
    struct way_replay_options r = {
        .journal = o->file,
        .journals = o->files - 1,
        .text = text,
        .limits = &c->limits,
        .mode = o->as_asked  ? WAY_REPLAY_ASKED
                : o->evolved ? WAY_REPLAY_EVOLVED
                             : WAY_REPLAY_AUTO,
        .out = stdout,
        .progress = true,
    };
    if (way_replay_run(&r, &totals, &err) < 0)
        return fail(&err, EXIT_BAD_INPUT);
    return totals.bad ? EXIT_BAD_INPUT : totals.differences ? EXIT_DIFFERS : EXIT_SAME;
}

static int replay(const struct way_options *o)
{
    static const double no_deadline = 1e6; /* instructions are counted; time is not */
    struct way_config c;
    struct way_policy_text text;
    struct way_err err;
    int status = EXIT_BAD_INPUT;
    way_config_init(&c);
    if ((o->config && way_config_load(&c, o->config, &err) < 0) ||
        way_options_apply(o, &c, &err) < 0 ||
        way_config_flag(&c, "policy", o->file[o->files - 1], &err) < 0 ||
        way_policy_read(&text, c.policy, c.option, c.options, &c.limits, &err) < 0) {
        fail(&err, status);
    } else {
        text.wall = no_deadline;
        status = replay_text(o, &c, &text);
        way_policy_text_fini(&text);
    }
    way_config_fini(&c);
    return status;
}

/* --- ctl --- */

static int ctl(const struct way_options *o)
{
    struct way_config c;
    struct way_err err;
    int status = EXIT_BAD;
    way_config_init(&c);
    if (o->config && way_config_load(&c, o->config, &err) < 0)
        fail(&err, status);
    else if (way_options_apply(o, &c, &err) < 0)
        status = fail(&err, EXIT_USAGE);
    else if (!c.console) {
        way_fail(&err, "ctl: expected the console's address by --console ADDRESS, or a "
                       "configuration that has one by -c FILE");
        status = fail(&err, EXIT_USAGE);
    } else if (way_ctl_run(c.console, o->file, o->files, o->json, stdout, &err) != 0)
        fail(&err, status);
    else
        status = EXIT_GOOD;
    way_config_fini(&c);
    return status;
}

/* --- test --- */

static int test(const struct way_options *o)
{
    struct way_err err;
    int result = way_spec_run(o->file, o->files, &err);
    return result < 0 ? fail(&err, EXIT_BAD) : result ? EXIT_BAD : EXIT_GOOD;
}

static int obey(const struct way_options *o)
{
    switch (o->verb) {
    case WAY_VERB_SERVE: return serve(o);
    case WAY_VERB_CHECK: return check(o);
    case WAY_VERB_REPLAY: return replay(o);
    case WAY_VERB_CTL: return ctl(o);
    case WAY_VERB_TEST: return test(o);
    case WAY_VERB_RELOAD: return reload(o);
    case WAY_VERB_DEFAULTS: way_options_settings(stdout, o->roff); return EXIT_GOOD;
    case WAY_VERB_HELP: way_options_help(stdout); return EXIT_GOOD;
    case WAY_VERB_VERSION: print_versions(); return EXIT_GOOD;
    }
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct way_options o;
    struct way_err err;
    int status;
    if (way_options_parse(&o, argc, argv, &err) < 0)
        status = fail(&err, EXIT_USAGE);
    else
        status = obey(&o);
    way_options_fini(&o);
    if (fflush(stdout) != 0 || ferror(stdout))
        status =
            EXIT_BAD; /* a full disk or a closed pipe: what was asked for is not there */
    return status;
}
