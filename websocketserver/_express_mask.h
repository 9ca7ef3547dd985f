/* A client's frames, part of _express.c: masked with keys that are drawn here as keys.py draws them. */

#include "protocol/_speedups_masking.h"

#define MOST_MASKED ((Py_ssize_t)128 << 10) /* bytes: some microseconds of masking, for which the GIL is kept */

/* Draw a key: unpredictable, and fresh for each frame (5.3, 10.3); -1 with an exception. */
static int draw_key(State *state, Key *key)
{
    if (!state->keys_left) {
        PyObject *drawn = PyObject_CallMethod(state->os, "urandom", "n", (Py_ssize_t)sizeof state->keys);
        int whole = drawn && PyBytes_CheckExact(drawn) && PyBytes_GET_SIZE(drawn) == sizeof state->keys;
        if (whole) { /* of two threads that draw at once, the last's: none of the first's will be used again */
            memcpy(state->keys, PyBytes_AS_STRING(drawn), sizeof state->keys);
            state->keys_left = Py_ARRAY_LENGTH(state->keys);
        }
        else if (drawn)
            PyErr_SetString(PyExc_RuntimeError, "os.urandom has not returned what it was asked for");
        Py_XDECREF(drawn);
        if (!whole)
            return -1;
    }
    *key = state->keys[--state->keys_left];
    return 0;
}

/* Return a payload as a masked frame (5.2). */
static PyObject *make_masked_frame(State *state, int opcode, const char *payload, Py_ssize_t size)
{
    int extended = size < 126 ? 0 : size < 65536 ? 2 : 8;
    Key key;
    PyObject *frame = draw_key(state, &key) < 0 ? NULL : PyBytes_FromStringAndSize(NULL, 6 + extended + size);
    if (!frame)
        return NULL;
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(frame);
    *to++ = 0x80 | opcode;
    *to++ = 0x80 | (extended == 0 ? size : extended == 2 ? 126 : 127);
    for (int shift = 8 * extended - 8; shift >= 0; shift -= 8)
        *to++ = (unsigned char)((uint64_t)size >> shift);
    memcpy(to, key.bytes, 4);
    apply_key(to + 4, (const unsigned char *)payload, size, key);
    return frame;
}
