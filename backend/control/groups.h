/* SPDX-License-Identifier: Apache-2.0 */
/* The groups of assetctl's commands, each with what stands behind its name on the command line. */
#ifndef ASSETD_CONTROL_GROUPS_H
#define ASSETD_CONTROL_GROUPS_H

/* `assetctl check`: what a storage directory holds. */
int group_check(int argc, char **argv);

/* `assetctl export` and `assetctl import`: the index of an instance as lines of JSON. */
int group_export(int argc, char **argv);
int group_import(int argc, char **argv);

/* `assetctl import-casd`: what bst-artifact-server has stored. */
int group_import_casd(int argc, char **argv);

/* `assetctl cert`: the server's key pair, and certificates of clients. */
int group_cert(int argc, char **argv);

/* `assetctl token`: tokens of clients. */
int group_token(int argc, char **argv);

#endif
