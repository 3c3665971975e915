/* plugin.h - the device backend, opened at run time. Not installed. */
#ifndef SALF_PLUGIN_H
#define SALF_PLUGIN_H

#include "core/core.h"

/* Opens the plugin at an absolute path, or libsalf-cuda.so beside the file that holds this code when path is NULL, and
 * asks it for its table. SALF_E_PLUGIN: no such place, missing, not loadable (a library it needs is), without its
 * entry, of another version. */
salf_status slf_plugin_open(const char *path, void **handle, const slf_backend **backend);
void slf_plugin_close(void *handle);
/* Whether there is any sign of a device's driver, so that a plugin is worth opening for a host that did not ask for it:
 * the driver's library in the process, or one of its device files. Opens nothing. */
bool slf_plugin_worth_opening(void);

#endif
