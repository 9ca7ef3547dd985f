/* Masking (RFC 6455, section 5.3), for whoever makes or takes frames in C: see masking.py. */

#pragma once

#include <Python.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    unsigned char bytes[4];
} Key;

/* Mask from one place to another, or in place; the two must not overlap otherwise. */
static void apply_key(unsigned char *to, const unsigned char *from, Py_ssize_t size, Key key)
{
    uint64_t pad, word;
    Py_ssize_t i = 0;
    memcpy(&pad, key.bytes, 4);
    memcpy((unsigned char *)&pad + 4, key.bytes, 4);
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, from + i, 8);
        word ^= pad;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++)
        to[i] = from[i] ^ key.bytes[i % 4];
}
