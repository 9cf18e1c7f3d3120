/*
 * What a code object says of itself, read without trusting it; and the news of its death.
 *
 * Used by the code table as its resolver, and by the engine's start and stop.
 */
#ifndef POM_EXT_CODE_READER_H
#define POM_EXT_CODE_READER_H

#include "profiles/code_table.h"

/* One for the process. Code whose file lies below `own_prefix` (our package) or that the
 * interpreter made for itself is marked internal. [any] */
pom_code_resolver_t *pom_code_reader(void);

/* The directory of our own Python files, with a trailing slash. [app] with the GIL */
void pom_code_reader_set_own(const char *prefix);

/* From now on code objects that die are forgotten by the table. POM_EUNSUPPORTED: no watcher left.
 * [app] with the GIL */
pom_status_t pom_code_deaths_watch(pom_code_table_t *table);

/* No more; the table may be freed. [app] with the GIL */
void pom_code_deaths_unwatch(void);

#endif
