/* config_set - what each value of a configuration must be, whoever gives it.
 *
 * For config alone, whose file and flags both come through here. Each setter checks, then
 * sets; on -1 nothing was set and the error says what was expected and what came, but not
 * where: the caller puts key or flag before it. Strings given are copied. */
#ifndef WAY_CONFIG_SET_H
#define WAY_CONFIG_SET_H

#include "base.h"
#include "config.h"
#include "limits.h"

enum { WAY_CONFIG_STRING_MAX = 4096 }; /* bytes of any string */

/* "host:port", "[v6]:port" or "unix:/path" that fits a socket. */
int way_config_check_local(const char *s, struct way_err *err) WAY_MUST_CHECK;
/* "host:port" or "[v6]:port". */
int way_config_check_node(const char *s, struct way_err *err) WAY_MUST_CHECK;

int way_config_add_listen(struct way_config *c, const char *s,
                          struct way_err *err) WAY_MUST_CHECK;
int way_config_add_seed(struct way_config *c, const char *s,
                        struct way_err *err) WAY_MUST_CHECK;
/* A literal address, with a port or without one (then 53). */
int way_config_add_name_server(struct way_config *c, const char *s,
                               struct way_err *err) WAY_MUST_CHECK;
int way_config_add_zone(struct way_config *c, const char *address, const char *zone,
                        struct way_err *err) WAY_MUST_CHECK;
int way_config_set_workers(struct way_config *c, double n,
                           struct way_err *err) WAY_MUST_CHECK;
/* Bytes of a journal's file before it is rotated; old files that are kept. */
int way_config_set_journal_bytes(struct way_config *c, double n,
                                 struct way_err *err) WAY_MUST_CHECK;
int way_config_set_journal_keep(struct way_config *c, double n,
                                struct way_err *err) WAY_MUST_CHECK;
int way_config_set_log_level(struct way_config *c, const char *s,
                             struct way_err *err) WAY_MUST_CHECK;
/* The password becomes the first line of the file at `path`. */
int way_config_set_password_file(struct way_config *c, const char *path,
                                 struct way_err *err) WAY_MUST_CHECK;

/* Replaces an option of the same name. */
int way_config_set_option(struct way_config *c, const struct way_option *o,
                          struct way_err *err) WAY_MUST_CHECK;
void way_config_drop_option(struct way_config *c,
                            unsigned i); /* the last takes its place */

bool way_config_is_bool(const struct way_setting *s);
/* "seconds (number, 0.001 to 3600)", into `text`, which is returned. */
const char *way_config_setting_expected(const struct way_setting *s, char *text,
                                        size_t size);
int way_config_set_setting(struct way_config *c, const struct way_setting *s,
                           double value, struct way_err *err) WAY_MUST_CHECK;

/* A number as messages show it, into `text`, which is returned. */
const char *way_config_number(double n, char *text, size_t size);

/* Frees what the slot holds and puts `owned` there. */
void way_config_replace(char **slot, char *owned);

#endif
