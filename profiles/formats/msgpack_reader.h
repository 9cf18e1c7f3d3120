/*
 * The wire form, read back: each profile of a batch as a pom_profile_t, so that every form that can
 * be made of a profile can be made of a file.
 *
 * Used by the bindings (report and convert of wire files) and by tests. The bytes may come from
 * anywhere: nothing in them makes the reader crash, loop, recurse, or hold more memory than the
 * limits below say. What it does not know, it skips.
 *
 *     status = pom_msgpack_batch_size(data, size, &batch);     where the next batch ends
 *     reader = pom_msgpack_reader_new();
 *     status = pom_msgpack_reader_begin(reader, data, batch);
 *     while ((status = pom_msgpack_reader_next(reader, &profile)) != POM_ENOTFOUND)
 *         if (status == POM_OK) {
 *             pom_record_emit(profile, emitter, depth);
 *             pom_profile_unref(profile);
 *         }
 *     pom_msgpack_reader_free(reader);
 */
#ifndef POM_PROFILES_FORMATS_MSGPACK_READER_H
#define POM_PROFILES_FORMATS_MSGPACK_READER_H

#include "base/status.h"
#include "profiles/formats/msgpack.h"
#include "profiles/profile.h"

/* Bytes of one profile in memory: 400 000 nodes, where an action keeps 30 000 by default. */
#define POM_MSGPACK_PROFILE_MAX ((size_t)64 << 20)

/* Bytes of the code objects of one batch: a hostile one may name a long text for each of many. */
#define POM_MSGPACK_CODES_MAX ((size_t)64 << 20)

/* Nodes below each other; a stack has at most 2048 frames. */
#define POM_MSGPACK_DEPTH_MAX 4096

typedef struct pom_msgpack_reader_s pom_msgpack_reader_t;

/* Returns owned; NULL for no memory. [any] */
pom_msgpack_reader_t *pom_msgpack_reader_new(void);
void pom_msgpack_reader_free(pom_msgpack_reader_t *reader); /* accepts NULL */

/* Bytes of the batch that begins at data, its head included, by the first POM_MSGPACK_HEAD bytes of
 * it; *size_out may be more than size: the batch is not complete yet. POM_ENOTFOUND: size is less
 * than a head and what there is may be the beginning of one. POM_EINVAL: no batch. POM_EFULL:
 * larger than POM_MSGPACK_BODY_MAX. POM_EUNSUPPORTED: another version; *size_out is right, so it
 * can be passed over. [any] */
POM_MUST_USE pom_status_t pom_msgpack_batch_size(const void *data, size_t size, size_t *size_out);

/* Takes a whole batch, size bytes as pom_msgpack_batch_size said; borrows them until the next begin
 * or free. POM_EINVAL: malformed. POM_EFULL: over a limit. POM_EUNSUPPORTED, POM_ENOMEM. */
POM_MUST_USE pom_status_t pom_msgpack_reader_begin(pom_msgpack_reader_t *reader, const void *data,
                                                   size_t size);

/* Who sent the batch, as far as it says; texts are borrowed from its bytes. */
const pom_msgpack_source_t *pom_msgpack_reader_source(const pom_msgpack_reader_t *reader);

/* The client report of the batch; texts are borrowed from its bytes. NULL: it has none, or one that
 * makes no sense, which spoils nothing else. */
const pom_client_report_t *pom_msgpack_reader_report(const pom_msgpack_reader_t *reader);

/* The next profile: returns owned in *out. POM_ENOTFOUND: there is none. Any other failure is about
 * this one profile alone (POM_EINVAL, POM_EFULL, POM_ENOMEM); the next call goes on behind it. */
POM_MUST_USE pom_status_t pom_msgpack_reader_next(pom_msgpack_reader_t *reader,
                                                  pom_profile_t **out);

#endif
