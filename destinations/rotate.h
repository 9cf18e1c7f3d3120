/*
 * Rotation of a file that several processes may be writing: PATH becomes PATH.1, PATH.1 becomes
 * PATH.2, and so on.
 *
 * Used by destinations/append_file.c when a file has reached its size or age.
 *
 *     error = pom__rotate("/var/log/shop/profiles.jsonl", 5, dev, ino);
 *     fd = open(path, O_CREAT | O_APPEND ...);      whoever comes first makes the new one
 */
#ifndef POM_DESTINATIONS_ROTATE_H
#define POM_DESTINATIONS_ROTATE_H

#include <stdint.h>
#include <sys/types.h>

/* Moves the file at `path` away, provided that it still is the one told by dev and ino, and that
 * no other process is at it; in those cases nothing is left to do. Of the earlier ones `keep` - 1
 * (at least 0) stay. 0, or errno: the file is where it was. [loop] */
int pom__rotate(const char *path, uint32_t keep, dev_t dev, ino_t ino);

#endif
