/*
 * An emitter takes a record piece by piece: one interface behind every output form.
 *
 * Used by profiles/value.c and profiles/formats/record.c, which drive it; implemented by the JSON
 * writer, and in bindings/ext by the builder of Python dicts. Calls come in document order: inside
 * a map each value is preceded by one key(), or name(); maps and lists nest and are always closed.
 * No call returns an error: an emitter that fails remembers it and ignores the rest. Text is UTF-8,
 * borrowed for the call; it may hold any byte (an emitter must survive bad UTF-8).
 */
#ifndef POM_PROFILES_EMITTER_H
#define POM_PROFILES_EMITTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POM_NAME_ROOM 24

/* A key of ours as JSON has it, `,"pid":`. It is plain (plain.h), and so short that JSON copies all
 * of its room, from the comma or from the quote on: a copy of fixed size costs least. */
typedef struct pom_key_s {
    char text[POM_NAME_ROOM + 1];
    unsigned char size;
} pom_key_t;

typedef struct pom_emitter_s pom_emitter_t;

typedef struct pom_emitter_ops_s {
    void (*map_begin)(pom_emitter_t *self);
    void (*map_end)(pom_emitter_t *self);
    void (*list_begin)(pom_emitter_t *self);
    void (*list_end)(pom_emitter_t *self);
    void (*key)(pom_emitter_t *self, const char *text, size_t size);
    void (*name)(pom_emitter_t *self, const pom_key_t *name); /* a key of ours: nearly all are */
    void (*text)(pom_emitter_t *self, const char *text, size_t size);
    void (*plain)(pom_emitter_t *self, const char *text, size_t size); /* text that is (plain.h) */
    void (*integer)(pom_emitter_t *self, int64_t value);
    void (*number)(pom_emitter_t *self,
                   double value); /* a user's float, NaN and infinities included */
    void (*seconds)(pom_emitter_t *self, int64_t ns);     /* a duration: seconds in the output */
    void (*moment)(pom_emitter_t *self, int64_t wall_ns); /* a UTC moment: ISO 8601 in text forms */
    void (*boolean)(pom_emitter_t *self, bool value);
    void (*null)(pom_emitter_t *self);
} pom_emitter_ops_t;

struct pom_emitter_s {
    const pom_emitter_ops_t *ops; /* the implementation's own data follow */
};

/* name() of a form that does not care: key() of what is within the quotes. */
static inline void pom_name_as_key(pom_emitter_t *self, const pom_key_t *name) {
    self->ops->key(self, name->text + 2, name->size - (size_t)4);
}

/* name() of a literal. */
#define POM_EMIT_NAME(e, literal)                                                                  \
    do {                                                                                           \
        _Static_assert(sizeof(literal) + 3 <= POM_NAME_ROOM, "a name that long needs more room");  \
        static const pom_key_t name_ = {",\"" literal "\":", sizeof(literal) + 3};                 \
        (e)->ops->name((e), &name_);                                                               \
    } while (0)

#endif
