/* The C twin of utf8.py, part of _speedups.c (RFC 6455, section 8.1; RFC 3629).

   An automaton that is stepped by one shift: its states are multiples of 6, and the row of a byte holds,
   at the place of each state, the state that follows. Nothing leads out of INVALID. */

enum {
    INVALID = 0,
    DONE = 6,    /* between two characters */
    ONE = 12,    /* one byte to come, or two, or three */
    TWO = 18,
    THREE = 24,
    AFTER_E0 = 30, /* the second byte is bounded: no overlong forms, */
    AFTER_ED = 36, /* no surrogates, */
    AFTER_F0 = 42, /* no overlong forms, */
    AFTER_F4 = 48, /* nothing beyond U+10FFFF */
};

#define STEP(from, to) ((uint64_t)(to) << (from))
#define FOLLOWS (STEP(ONE, DONE) | STEP(TWO, ONE) | STEP(THREE, TWO))
#define IN_80 (FOLLOWS | STEP(AFTER_ED, ONE) | STEP(AFTER_F4, TWO))
#define IN_90 (FOLLOWS | STEP(AFTER_ED, ONE) | STEP(AFTER_F0, TWO))
#define IN_A0 (FOLLOWS | STEP(AFTER_E0, ONE) | STEP(AFTER_F0, TWO))
#define OPENS(state) STEP(DONE, state)
#define TIMES_2(row) row, row
#define TIMES_4(row) TIMES_2(row), TIMES_2(row)
#define TIMES_8(row) TIMES_4(row), TIMES_4(row)
#define TIMES_16(row) TIMES_8(row), TIMES_8(row)
#define TIMES_32(row) TIMES_16(row), TIMES_16(row)

static const uint64_t ROWS[256] = {
    /* 00 to 7F */ TIMES_32(OPENS(DONE)), TIMES_32(OPENS(DONE)), TIMES_32(OPENS(DONE)), TIMES_32(OPENS(DONE)),
    /* 80 to BF */ TIMES_16(IN_80), TIMES_16(IN_90), TIMES_32(IN_A0),
    /* C0 to DF */ TIMES_2(INVALID), TIMES_2(OPENS(ONE)), TIMES_4(OPENS(ONE)), TIMES_8(OPENS(ONE)), TIMES_16(OPENS(ONE)),
    /* E0 to EF */ OPENS(AFTER_E0), TIMES_4(OPENS(TWO)), TIMES_8(OPENS(TWO)), OPENS(AFTER_ED), TIMES_2(OPENS(TWO)),
    /* F0 to FF */ OPENS(AFTER_F0), TIMES_2(OPENS(THREE)), OPENS(THREE), OPENS(AFTER_F4), TIMES_2(INVALID), INVALID,
    TIMES_8(INVALID),
};

#define BLOCK 64

static int is_ascii(const unsigned char block[BLOCK])
{
    uint64_t words[BLOCK / 8], any = 0;
    memcpy(words, block, BLOCK);
    for (int i = 0; i < BLOCK / 8; i++)
        any |= words[i];
    return !(any & UINT64_C(0x8080808080808080));
}

/* Return the state after these bytes, or INVALID somewhere behind the first that cannot be valid. */
static uint64_t check_utf8(uint64_t state, const unsigned char *data, Py_ssize_t size)
{
    const unsigned char *end = data + size;
    while (data < end && state != INVALID) {
        Py_ssize_t step = end - data < BLOCK ? end - data : BLOCK;
        if (step < BLOCK || state != DONE || !is_ascii(data)) {
            for (Py_ssize_t i = 0; i < step; i++)
                state = ROWS[data[i]] >> (state & 63);
            state &= 63;
        }
        data += step;
    }
    return state;
}

typedef struct {
    PyObject_HEAD
    uint64_t beyond; /* the state less DONE, which makes a new object stand between two characters */
} Utf8Validator;

static PyObject *utf8_feed(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    static const char *const names[] = {"data", "final"};
    Utf8Validator *self = (Utf8Validator *)object;
    PyObject *values[2] = {NULL};
    Py_buffer view;
    int final = 0;
    if (spread(args, nargs, keywords, names, 1, 2, values) < 0)
        return NULL;
    if (values[1] && (final = PyObject_IsTrue(values[1])) < 0)
        return NULL;
    if (PyObject_GetBuffer(values[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    uint64_t state = DONE + self->beyond;
    if (view.len < LARGE || !PyBytes_CheckExact(values[0]))
        state = check_utf8(state, view.buf, view.len);
    else {
        Py_BEGIN_ALLOW_THREADS
        state = check_utf8(state, view.buf, view.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    int valid = state != INVALID && (!final || state == DONE);
    self->beyond = valid ? state - DONE : 0;
    if (!valid) {
        refuse(PyType_GetModuleState(Py_TYPE(object)), 1007, "text is not valid UTF-8");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *utf8_reset(PyObject *self, PyObject *Py_UNUSED(arg))
{
    ((Utf8Validator *)self)->beyond = 0;
    Py_RETURN_NONE;
}

static void utf8_dealloc(PyObject *self)
{
    release(self, NULL);
}

static PyMethodDef utf8_methods[] = {
    {"feed", (PyCFunction)(void (*)(void))utf8_feed, METH_FASTCALL | METH_KEYWORDS, "Check the next piece of a text."},
    {"reset", utf8_reset, METH_NOARGS, "Forget an unfinished text."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot utf8_slots[] = {
    {Py_tp_doc, "Checks one text after the other, each in pieces of any length."},
    {Py_tp_dealloc, utf8_dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_methods, utf8_methods},
    {0, NULL},
};
