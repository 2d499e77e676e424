/* options - see options.h. getopt_long is not used: it knows no suggestions, and the
 * flags are a table already. */
#include "options.h"

#include <ctype.h>

static const struct verb {
    const char *name, *usage, *help;
    enum way_verb verb;
} verbs[] = {
    { "serve", "serve [-c FILE] [FLAG...]", "serve a cluster", WAY_VERB_SERVE },
    { "check", "check [FLAG...] FILE...",
      "say whether configurations and policies are good", WAY_VERB_CHECK },
    { "replay", "replay JOURNAL... POLICY [FLAG...]",
      "put a recorded journal to a policy: where do its answers differ?",
      WAY_VERB_REPLAY },
    { "ctl", "ctl [--json] COMMAND [WORD...]",
      "ask a running daemon's console: ctl help lists the commands", WAY_VERB_CTL },
    { "test", "test FILE...", "run the specs of policies", WAY_VERB_TEST },
    { "reload", "reload [-c FILE | --console ADDRESS] [POLICY] [NAME=VALUE...]",
      "have a host that serves load its policy and limits anew; waits for it",
      WAY_VERB_RELOAD },
    { "check", "check --defaults", "print every time-out and limit", WAY_VERB_DEFAULTS },
};

/* Words that are no flags of the configuration; verb: what the word asks for. */
enum { WORD_FILE = -1, WORD_JSON = -2, WORD_AS_ASKED = -3, WORD_EVOLVE = -4 };
static const struct word {
    const char *text;
    int verb; /* a verb, or one of the words below */
} words[] = {
    { "-c", WORD_FILE },
    { "--config", WORD_FILE },
    { "--json", WORD_JSON },
    { "--as-asked", WORD_AS_ASKED },
    { "--evolve", WORD_EVOLVE },
    { "-h", WAY_VERB_HELP },
    { "--help", WAY_VERB_HELP },
    { "-V", WAY_VERB_VERSION },
    { "--version", WAY_VERB_VERSION },
    { "--defaults", WAY_VERB_DEFAULTS },
    { "--defaults=roff", WAY_VERB_DEFAULTS },
};

struct line {
    struct way_options *o;
    char **next, **end;
    struct way_err *err;
};

static int unknown_command(const char *given, struct way_err *err)
{
    for (unsigned i = 0; i < way_count(verbs); i++)
        if (way_distance(given, verbs[i].name) <= 2)
            return way_fail(err, "%s: unknown command, did you mean %s?", given,
                            verbs[i].name);
    return way_fail(err,
                    "%s: unknown command, expected serve, check, reload, replay, ctl or "
                    "test",
                    given);
}

static int unknown_flag(const char *given, struct way_err *err)
{
    const struct way_flag *flag;
    const char *best = NULL;
    unsigned least = 3;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(given, "="), given);
    for (unsigned i = 0; (flag = way_config_flag_at(i)); i++)
        if (!strncmp(name, "--", 2) && way_distance(name + 2, flag->name) < least) {
            least = way_distance(name + 2, flag->name);
            best = flag->name;
        }
    if (best)
        return way_fail(err, "%s: unknown option, did you mean --%s?", name, best);
    for (unsigned i = 0; i < way_count(words); i++)
        if (strlen(name) > 2 && way_distance(name, words[i].text) <= 2)
            return way_fail(err, "%s: unknown option, did you mean %s?", name,
                            words[i].text);
    return way_fail(err, "%s: unknown option", name);
}

/* The flag of the configuration that the word names, NULL if none; *value: behind its
 * "=", or NULL. */
static const struct way_flag *flag_of(const char *word, const char **value)
{
    const struct way_flag *flag;
    size_t n = strcspn(word, "=");
    if (strncmp(word, "--", 2))
        return NULL;
    for (unsigned i = 0; (flag = way_config_flag_at(i)); i++)
        if (strlen(flag->name) == n - 2 && !memcmp(word + 2, flag->name, n - 2)) {
            *value = word[n] ? word + n + 1 : NULL;
            return flag;
        }
    return NULL;
}

static int value_of(struct line *l, const char *name, const char *what,
                    const char **value)
{
    if (!*value && l->next == l->end)
        return way_fail(l->err, "%s: expected %s, got nothing", name, what);
    if (!*value)
        *value = *l->next++;
    return 0;
}

/* A word that belongs to one command. */
static int take_mode(struct line *l, const struct word *word)
{
    struct way_options *o = l->o;
    enum way_verb of = word->verb == WORD_JSON ? WAY_VERB_CTL : WAY_VERB_REPLAY;
    if (o->verb != of)
        return way_fail(l->err, "%s: belongs to %s", word->text,
                        of == WAY_VERB_CTL ? "ctl" : "replay");
    o->json = o->json || word->verb == WORD_JSON;
    o->as_asked = o->as_asked || word->verb == WORD_AS_ASKED;
    o->evolved = o->evolved || word->verb == WORD_EVOLVE;
    if (o->as_asked && o->evolved)
        return way_fail(l->err, "%s: expected --as-asked or --evolve, got both",
                        word->text);
    return 0;
}

static int take_word(struct line *l, const struct word *word, const char *value)
{
    struct way_options *o = l->o;
    if (word->verb >= 0) {
        o->verb = (enum way_verb)word->verb;
        o->roff = strchr(word->text, '=') != NULL;
        return 0;
    }
    if (word->verb != WORD_FILE)
        return take_mode(l, word);
    if (value_of(l, word->text, "FILE", &value) < 0)
        return -1;
    if (o->verb == WAY_VERB_CHECK)
        o->file[o->files++] = value;
    else if (o->config)
        return way_fail(l->err, "%s: expected one file, got two", word->text);
    else
        o->config = value;
    return 0;
}

static int take_flag(struct line *l, const char *given)
{
    const char *value = NULL;
    const struct way_flag *flag = flag_of(given, &value);
    if (flag) {
        if (value_of(l, given, flag->value, &value) < 0)
            return -1;
        l->o->given[l->o->givens++] = (struct way_given){ flag->name, value };
        return 0;
    }
    for (unsigned i = 0; i < way_count(words); i++) {
        if (!strcmp(given, words[i].text))
            return take_word(l, &words[i], NULL);
        size_t n = strlen(words[i].text);
        if (words[i].verb == WORD_FILE && n > 2 && !strncmp(given, words[i].text, n) &&
            given[n] == '=')
            return take_word(l, &words[i], given + n + 1);
    }
    return unknown_flag(given, l->err);
}

static int take_verb(struct line *l)
{
    const char *given = *l->next++;
    for (unsigned i = 0; i < way_count(verbs); i++)
        if (!strcmp(given, verbs[i].name)) {
            l->o->verb = verbs[i].verb;
            return 0;
        }
    return unknown_command(given, l->err);
}

static bool asks(const struct way_options *o)
{
    return o->verb == WAY_VERB_HELP || o->verb == WAY_VERB_VERSION;
}

int way_options_parse(struct way_options *o, int argc, char **argv, struct way_err *err)
{
    size_t most = argc > 0 ? (size_t)argc : 1;
    *o = (struct way_options){
        .file = way_zalloc(most * sizeof *o->file),
        .given = way_zalloc(most * sizeof *o->given),
    };
    struct line l = { .o = o, .next = argv + 1, .end = argv + argc, .err = err };
    if (argc < 2)
        return way_fail(err, "expected a command: serve, check, reload, replay, ctl or "
                             "test");
    if (argv[1][0] != '-' && take_verb(&l) < 0)
        return -1;
    bool verb = argv[1][0] != '-', flags = true;
    while (l.next < l.end) {
        char *given = *l.next++;
        if (flags && !strcmp(given, "--"))
            flags = false;
        else if (flags && given[0] == '-' && given[1]) {
            if (take_flag(&l, given) < 0)
                return -1;
            if (asks(o))
                return 0;
        } else if (verb && o->verb != WAY_VERB_SERVE && o->verb != WAY_VERB_DEFAULTS)
            o->file[o->files++] = given;
        else
            return way_fail(err, "%s: expected no further word", given);
    }
    if (!verb)
        return way_fail(err, "expected a command before flags: serve, check, reload, "
                             "replay, ctl or test");
    if (o->verb == WAY_VERB_CHECK && !o->files)
        return way_fail(err, "check: expected FILE, got nothing");
    if (o->verb == WAY_VERB_TEST && !o->files)
        return way_fail(err, "test: expected FILE, got nothing");
    if (o->verb == WAY_VERB_CTL && !o->files)
        return way_fail(err, "ctl: expected COMMAND, got nothing: ctl help lists them");
    if (o->verb == WAY_VERB_REPLAY && o->files < 2)
        return way_fail(err, "replay: expected JOURNAL and POLICY, got %s",
                        o->files ? "one word" : "nothing");
    return 0;
}

void way_options_fini(struct way_options *o)
{
    way_free(o->file);
    way_free(o->given);
}

int way_options_apply(const struct way_options *o, struct way_config *c,
                      struct way_err *err)
{
    for (unsigned i = 0; i < o->givens; i++)
        if (way_config_flag(c, o->given[i].name, o->given[i].value, err) < 0)
            return -1;
    return 0;
}

void way_options_help(FILE *out)
{
    const struct way_flag *flag;
    char name[64];
    fputs("wayside serves a Redis Cluster and lets a Lua policy decide what happens when "
          "nodes fail.\n\nCommands:\n",
          out);
    for (unsigned i = 0; i < way_count(verbs); i++)
        fprintf(out, "  wayside %-28s %s\n", verbs[i].usage, verbs[i].help);
    fputs("\nFlags (they win over the file):\n", out);
    fprintf(out, "  %-26s %s\n", "-c, --config FILE",
            "the configuration, wayside.conf(5)");
    for (unsigned i = 0; (flag = way_config_flag_at(i)); i++) {
        snprintf(name, sizeof name, "--%s %s", flag->name, flag->value);
        fprintf(out, "  %-26s %s\n", name, flag->help);
    }
    fputs("\n  -h, --help                 this text\n"
          "  -V, --version              versions of wayside and its libraries\n"
          "\nEnds with 0 when all went well, 1 on failure, 2 when called wrongly.\n",
          out);
}

/* --- the table of settings --- */

static void number(char *text, size_t size, const struct way_setting *s, double value)
{
    if (!strcmp(s->unit, "bool"))
        snprintf(text, size, "%s", value != 0 ? "true" : "false");
    else
        snprintf(text, size, "%.15g", value);
}

static const char *group_of(const struct way_setting *s)
{
    return s->group == WAY_GROUP_TIMEOUTS ? "timeouts" : "limits";
}

static void put_text(FILE *out, const struct way_setting *s, const char *standard,
                     const char *bounds)
{
    bool boolean = !strcmp(s->unit, "bool");
    fprintf(out, "%s.%s = %s%s%s (%s)\n    %s\n    when hit: %s\n", group_of(s), s->name,
            standard, boolean ? "" : " ", boolean ? "" : s->unit, bounds, s->help,
            s->seen);
}

/* Text as roff wants it: a minus sign is "\\-". */
static void put_roff(FILE *out, const char *text)
{
    for (; *text; text++)
        fputs(*text == '-' ? "\\-" : (char[]){ *text, 0 }, out);
}

static void put_row(FILE *out, const struct way_setting *s, const char *standard,
                    const char *bounds)
{
    fprintf(out, ".TP\n.B %s.%s\nDefault %s", group_of(s), s->name, standard);
    if (strcmp(s->unit, "bool"))
        fprintf(out, " %s", s->unit);
    fprintf(out, " (%s).\n%c", bounds, toupper((unsigned char)s->help[0]));
    put_roff(out, s->help + 1);
    fputs(".\n.br\nWhen hit: ", out);
    put_roff(out, s->seen);
    fputs(".\n", out);
}

void way_options_settings(FILE *out, bool roff)
{
    const struct way_setting *s;
    char standard[32], least[32], most[32], bounds[80];
    for (unsigned i = 0; (s = way_setting_at(i)); i++) {
        number(standard, sizeof standard, s, s->standard);
        number(least, sizeof least, s, s->min);
        number(most, sizeof most, s, s->max);
        if (!strcmp(s->unit, "bool"))
            snprintf(bounds, sizeof bounds, "true or false");
        else
            snprintf(bounds, sizeof bounds, "%s to %s", least, most);
        (roff ? put_row : put_text)(out, s, standard, bounds);
    }
}
