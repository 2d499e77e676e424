/* metrics - what control knows, as Prometheus reads it (text format 0.0.4). */
#ifndef WAY_METRICS_H
#define WAY_METRICS_H

#include "base.h"
#include "control.h"

/* Appends all metrics; reads only. */
void way_metrics_write(struct way_control *control, struct way_buf *out);

/* Appends one line in words; true: the topology is known and each slot has an owner. */
bool way_metrics_healthy(struct way_control *control, struct way_buf *out);

#endif
