/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold between the parts of a configuration. */
#ifndef ASSETD_CONF_CHECK_H
#define ASSETD_CONF_CHECK_H

#include "conf/conf.h"
#include "conf/fault.h"
#include "conf/yaml.h"

/*
 * Looks at CONF, which was read from the tree ROOT, for what contradicts itself, and notes it in
 * FAULTS. What was faulty already is NULL in CONF, and gives no further faults.
 */
void check_conf(const struct conf *conf, const struct yaml_node *root, struct faults *faults);

#endif
