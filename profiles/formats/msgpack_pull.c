/*
 * A pull parser of MessagePack: the whole format in one switch.
 *
 * Written here rather than taken from msgpack-c, whose unpacker builds a tree of objects first: one
 * byte of input becomes 24 of memory, and it recurses to free. Here an item is looked at where it
 * lies.
 *
 * Runs on any thread.
 */
#include "profiles/formats/msgpack_pull.h"

#include <string.h>

/* size bytes, big endian, into the low end; false when there are fewer. */
static bool take_unsigned(pom__pull_t *pull, unsigned size, uint64_t *value) {
    if ((size_t)(pull->end - pull->at) < size) {
        return false;
    }
    *value = 0;
    for (unsigned i = 0; i < size; i++) {
        *value = *value << 8 | *pull->at++;
    }
    return true;
}

static bool take_bytes(pom__pull_t *pull, pom__item_t *item, pom__kind_t kind, uint64_t size) {
    if (size > (uint64_t)(pull->end - pull->at)) {
        return false;
    }
    item->kind = kind;
    item->data = (const char *)pull->at;
    item->size = (uint32_t)size;
    pull->at += size;
    return true;
}

static bool take_head(pom__pull_t *pull, pom__item_t *item, pom__kind_t kind, uint64_t size) {
    uint64_t least = kind == POM__MAP ? size * 2 : size; /* each element is a byte at least */
    if (least > (uint64_t)(pull->end - pull->at)) {
        return false;
    }
    item->kind = kind;
    item->size = (uint32_t)size;
    return true;
}

static bool take_ext(pom__pull_t *pull, pom__item_t *item, uint64_t size) {
    uint64_t type;
    if (!take_unsigned(pull, 1, &type)) {
        return false;
    }
    item->ext_type = (int8_t)type;
    return take_bytes(pull, item, POM__EXT, size);
}

static bool take_float(pom__pull_t *pull, pom__item_t *item, unsigned size) {
    uint64_t bits;
    if (!take_unsigned(pull, size, &bits)) {
        return false;
    }
    item->kind = POM__NUMBER;
    if (size == 4) {
        uint32_t low = (uint32_t)bits;
        float number;
        memcpy(&number, &low, sizeof number);
        item->number = (double)number;
    } else {
        memcpy(&item->number, &bits, sizeof bits);
    }
    return true;
}

static bool take_integer(pom__pull_t *pull, pom__item_t *item, unsigned size, bool is_signed) {
    uint64_t bits;
    if (!take_unsigned(pull, size, &bits)) {
        return false;
    }
    if (is_signed && size < 8 && (bits >> (8 * size - 1)) != 0) {
        bits |= UINT64_MAX << (8 * size);
    }
    item->kind = POM__INTEGER;
    item->integer = (int64_t)bits;
    item->huge = !is_signed && item->integer < 0;
    return true;
}

bool pom__pull_item(pom__pull_t *pull, pom__item_t *item) {
    uint64_t size;
    memset(item, 0, sizeof *item);
    if (pull->at == pull->end) {
        return false;
    }
    unsigned char tag = *pull->at++;
    if (tag <= 0x7f || tag >= 0xe0) {
        item->kind = POM__INTEGER;
        item->integer = (int8_t)tag;
        return true;
    }
    if (tag <= 0x8f) {
        return take_head(pull, item, POM__MAP, tag & 0x0f);
    }
    if (tag <= 0x9f) {
        return take_head(pull, item, POM__ARRAY, tag & 0x0f);
    }
    if (tag <= 0xbf) {
        return take_bytes(pull, item, POM__TEXT, tag & 0x1f);
    }
    switch (tag) {
    case 0xc0:
        item->kind = POM__NIL;
        return true;
    case 0xc2:
    case 0xc3:
        item->kind = POM__BOOLEAN;
        item->boolean = tag == 0xc3;
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return take_unsigned(pull, 1u << (tag - 0xc4), &size) &&
               take_bytes(pull, item, POM__BYTES, size);
    case 0xc7:
    case 0xc8:
    case 0xc9:
        return take_unsigned(pull, 1u << (tag - 0xc7), &size) && take_ext(pull, item, size);
    case 0xca:
        return take_float(pull, item, 4);
    case 0xcb:
        return take_float(pull, item, 8);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return take_integer(pull, item, 1u << (tag - 0xcc), false);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return take_integer(pull, item, 1u << (tag - 0xd0), true);
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        return take_ext(pull, item, UINT64_C(1) << (tag - 0xd4));
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take_unsigned(pull, 1u << (tag - 0xd9), &size) &&
               take_bytes(pull, item, POM__TEXT, size);
    case 0xdc:
    case 0xdd:
        return take_unsigned(pull, 2u << (tag - 0xdc), &size) &&
               take_head(pull, item, POM__ARRAY, size);
    case 0xde:
    case 0xdf:
        return take_unsigned(pull, 2u << (tag - 0xde), &size) &&
               take_head(pull, item, POM__MAP, size);
    default: /* 0xc1: never used */
        return false;
    }
}

bool pom__pull_head(pom__pull_t *pull, pom__kind_t kind, uint32_t *size) {
    pom__item_t item;
    if (!pom__pull_item(pull, &item) || item.kind != kind) {
        return false;
    }
    *size = item.size;
    return true;
}

bool pom__pull_integer(pom__pull_t *pull, int64_t least, int64_t most, int64_t *value) {
    pom__item_t item;
    if (!pom__pull_item(pull, &item) || item.kind != POM__INTEGER || item.huge ||
        item.integer < least || item.integer > most) {
        return false;
    }
    *value = item.integer;
    return true;
}

bool pom__pull_skip(pom__pull_t *pull) {
    /* Each item read is a byte at least, so this ends whatever the heads claim. */
    for (uint64_t wanted = 1; wanted > 0; wanted--) {
        pom__item_t item;
        if (!pom__pull_item(pull, &item)) {
            return false;
        }
        if (item.kind == POM__ARRAY) {
            wanted += item.size;
        } else if (item.kind == POM__MAP) {
            wanted += (uint64_t)item.size * 2;
        }
    }
    return true;
}

bool pom__pull_entry(pom__pull_t *pull, int64_t *key, pom__pull_t *value) {
    pom__pull_t before = *pull;
    pom__item_t item;
    if (!pom__pull_item(pull, &item)) {
        return false;
    }
    *key = item.integer;
    if (item.kind != POM__INTEGER || item.huge) {
        *key = -1;
        *pull = before;
        if (!pom__pull_skip(pull)) {
            return false;
        }
    }
    *value = *pull;
    return pom__pull_skip(pull);
}
