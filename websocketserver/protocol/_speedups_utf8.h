/* The C twins of utf8.py, part of _speedups.c (RFC 6455, section 8.1; RFC 3629).

   Whole blocks are judged by comparisons alone, of each byte with those before it, which compilers make vectors of.
   The ends of a piece are for an automaton that is stepped by one shift: its states are multiples of 6, and the row
   of a byte holds, at the place of each state, the state that follows. Nothing leads out of INVALID. */

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

static uint64_t step_through(uint64_t state, const unsigned char *data, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++)
        state = ROWS[data[i]] >> (state & 63);
    return state & 63;
}

#define BLOCK 128
#define BEFORE 3 /* bytes that say whether the next continues a character */

static int is_ascii(const unsigned char block[BLOCK])
{
    uint64_t words[BLOCK / 8], any = 0;
    memcpy(words, block, BLOCK);
    for (int i = 0; i < BLOCK / 8; i++)
        any |= words[i];
    return !(any & UINT64_C(0x8080808080808080));
}

/* Return whether a byte of the block, which others precede, cannot be valid; its last character may be unfinished. */
static int is_wrong(const unsigned char *block)
{
    unsigned char wrong = 0, least = 0xFF, most = 0; /* wrong by its highest bit, a difference of 0, beyond F4 */
    for (Py_ssize_t i = 0; i < BLOCK; i++) {
        unsigned char byte = block[i], before = block[i - 1];
        unsigned char second = Py_MAX(block[i - 2], 0x20) - 0x20; /* E0 and F0 become C0: where those of two bytes, */
        unsigned char third = Py_MAX(block[i - 3], 0x30) - 0x30;  /* of three and of four begin, one has to follow */
        unsigned char lead = Py_MAX(before, second);
        lead = Py_MAX(lead, third);
        wrong |= (lead & lead << 1) ^ (byte & ~(byte << 1)); /* 11......, and not followed by 10......; or the reverse */

        signed char signed_byte = (signed char)byte; /* 80 to BF, where it follows: compared in one instruction less */
        unsigned char after_e = before ^ (signed_byte < (signed char)0xA0 ? 0xE0 : 0xED); /* overlong, surrogates */
        unsigned char after_f = before ^ (signed_byte < (signed char)0x90 ? 0xF0 : 0xF4); /* overlong, over U+10FFFF */
        unsigned char overlong = (byte & 0xFE) ^ 0xC0;
        unsigned char difference = Py_MIN(after_e, after_f);
        difference = Py_MIN(difference, overlong);
        least = Py_MIN(least, difference);
        most = Py_MAX(most, byte);
    }
    return wrong & 0x80 || least == 0 || most > 0xF4;
}

/* Return the state after these bytes, or INVALID. */
static uint64_t check_utf8(uint64_t state, const unsigned char *data, Py_ssize_t size)
{
    const unsigned char *end = data + size, *block = data + BEFORE, *last = end;
    if (size < BEFORE + BLOCK)
        return step_through(state, data, size);
    if (step_through(state, data, BEFORE) == INVALID)
        return INVALID;
    for (Py_ssize_t step = BLOCK; step; block += step) { /* the last block may overlap with the one before */
        if ((block[-1] >= 0x80 || !is_ascii(block)) && is_wrong(block))
            return INVALID;
        step = Py_MIN(BLOCK, end - block - BLOCK);
    }
    do /* to where the last character begins */
        last--;
    while ((*last & 0xC0) == 0x80);
    return step_through(DONE, last, end - last);
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

#define SHORT 64 /* bytes, or characters, below which CPython is as fast */

/* ---- Decoding ---- */

/* What is to be known of a character by how many bytes it has; 0 stands for a byte that none begins with. Where the
   lengths of characters follow no pattern a branch for each is what costs most, so there is none. */
static const unsigned char LENGTHS[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                          0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 3, 3, 4, 0}; /* by the upper five bits */
static const unsigned char STEPS[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                        1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 1};
static const unsigned char FIRST_BITS[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
static const unsigned char SHIFTS[5] = {0, 18, 12, 6, 0};
static const uint32_t LEAST[5] = {0x110000, 0, 0x80, 0x800, 0x10000}; /* no overlong forms */
static const uint32_t FOLLOWING[5] = {0, 0, 0xC00000, 0xC0C000, 0xC0C0C0}; /* where the upper bits of the others are */

/* Read one character, of which four bytes can be read: its code point, and whether it is wrong. */
static inline uint32_t read_point(const unsigned char *data, int *length, uint32_t *wrong)
{
    size_t kind = data[0] >> 3, size = LENGTHS[kind];
    uint32_t others = (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
    uint32_t point = (uint32_t)(data[0] & FIRST_BITS[size]) << 18 | (uint32_t)(data[1] & 0x3F) << 12 |
                     (uint32_t)(data[2] & 0x3F) << 6 | (data[3] & 0x3F);
    point >>= SHIFTS[size];
    *wrong |= (uint32_t)(point < LEAST[size]) | (uint32_t)(point > 0x10FFFF) |
              (uint32_t)(point >> 11 == 0x1B) | /* no surrogates */
              ((others ^ 0x808080) & FOLLOWING[size]);
    *length = STEPS[kind];
    return point;
}

#define PADDED 3 /* the last bytes, which are read from a copy with zeros behind them */

/* Decode into a string with one place for each character: 0, or -1 where the text is not what it seemed.
   One for each kind of string, and each is a loop of its own. */
#define DECODER(name, type)                                                                            \
    static int name(const unsigned char *data, const unsigned char *end, type *to, const type *to_end) \
    {                                                                                                  \
        unsigned char last[2 * PADDED + 4] = {0};                                                      \
        const unsigned char *safe = end - PADDED;                                                      \
        uint32_t wrong = 0;                                                                            \
        int length;                                                                                    \
        for (; data < safe && to < to_end; data += length)                                             \
            *to++ = (type)read_point(data, &length, &wrong);                                           \
        if (data > end)                                                                                \
            return -1;                                                                                 \
        Py_ssize_t left = end - data;                                                                  \
        if (left > PADDED)                                                                             \
            return -1;                                                                                 \
        memcpy(last, data, left);                                                                      \
        for (data = last; data < last + left && to < to_end; data += length)                           \
            *to++ = (type)read_point(data, &length, &wrong);                                           \
        return wrong || data != last + left || to != to_end ? -1 : 0;                                  \
    }

DECODER(decode_1, Py_UCS1)
DECODER(decode_2, Py_UCS2)
DECODER(decode_4, Py_UCS4)

/* Decode a text that is not ASCII; NULL, maybe without an exception, where it is not UTF-8. */
static PyObject *decode_wide(const unsigned char *data, Py_ssize_t size)
{
    Py_ssize_t count = 0;
    unsigned char most = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        count += (data[i] & 0xC0) != 0x80;
        most = Py_MAX(most, data[i]);
    }
    if (most < 0x80) /* CPython's own way is as fast */
        return PyUnicode_DecodeUTF8((const char *)data, size, NULL);
    PyObject *text = PyUnicode_New(count, most < 0xC4 ? 0xFF : most < 0xF0 ? 0xFFFF : 0x10FFFF);
    if (!text)
        return NULL;
    void *to = PyUnicode_DATA(text);
    int wrong = most < 0xC4   ? decode_1(data, data + size, to, (Py_UCS1 *)to + count)
                : most < 0xF0 ? decode_2(data, data + size, to, (Py_UCS2 *)to + count)
                              : decode_4(data, data + size, to, (Py_UCS4 *)to + count);
    if (wrong)
        Py_CLEAR(text);
    return text;
}

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *text = view.len < SHORT ? NULL : decode_wide(view.buf, view.len);
    if (!text && !PyErr_Occurred()) /* short, or wrong: CPython says where */
        text = PyUnicode_DecodeUTF8(view.buf, view.len, NULL);
    PyBuffer_Release(&view);
    return text;
}

/* ---- Encoding ---- */

/* Write one character, where there is room for four bytes; return how many it takes. */
static inline int write_point(uint32_t point, unsigned char *to, uint32_t *wrong)
{
    static const uint32_t MARKS[5] = {0, 0, 0x80C0, 0x8080E0, 0x808080F0};
    int size = 1 + (point >= 0x80) + (point >= 0x800) + (point >= 0x10000);
    uint32_t spread = point >> 18 | (point >> 12 & 0x3F) << 8 | (point >> 6 & 0x3F) << 16 | (point & 0x3F) << 24;
    uint32_t bytes = size == 1 ? point : spread >> 8 * (4 - size) | MARKS[size];
    *wrong |= point >> 11 == 0x1B; /* a surrogate */
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(bytes >> 8 * i);
    return size;
}

#define ENCODER(name, type)                                                          \
    static Py_ssize_t name##_size(const type *data, Py_ssize_t count)                \
    {                                                                                \
        Py_ssize_t size = count;                                                     \
        for (Py_ssize_t i = 0; i < count; i++) {                                     \
            uint32_t point = data[i];                                                \
            size += (point >= 0x80) + (point >= 0x800) + (point >= 0x10000);         \
        }                                                                            \
        return size;                                                                 \
    }                                                                                \
                                                                                     \
    static int name(const type *data, Py_ssize_t count, unsigned char *to)           \
    {                                                                                \
        uint32_t wrong = 0;                                                          \
        for (Py_ssize_t i = 0; i < count; i++)                                       \
            to += write_point(data[i], to, &wrong);                                  \
        return wrong ? -1 : 0;                                                       \
    }

ENCODER(encode_1, Py_UCS1)
ENCODER(encode_2, Py_UCS2)
ENCODER(encode_4, Py_UCS4)

#define ROOM 3 /* bytes behind the end, for the last character to be written as four */

/* Encode a text that is not ASCII; NULL, maybe without an exception, where it cannot be. */
static PyObject *encode_wide(PyObject *text, Py_ssize_t count)
{
    const void *data = PyUnicode_DATA(text);
    int kind = PyUnicode_KIND(text), wrong;
    Py_ssize_t size = kind == PyUnicode_1BYTE_KIND   ? encode_1_size(data, count)
                      : kind == PyUnicode_2BYTE_KIND ? encode_2_size(data, count)
                                                     : encode_4_size(data, count);
    PyObject *result = PyBytes_FromStringAndSize(NULL, size + ROOM); /* a string of that many bytes is in memory */
    if (!result)
        return NULL;
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(result);
    wrong = kind == PyUnicode_1BYTE_KIND   ? encode_1(data, count, to)
            : kind == PyUnicode_2BYTE_KIND ? encode_2(data, count, to)
                                           : encode_4(data, count, to);
    if (wrong)
        Py_CLEAR(result);
    else
        _PyBytes_Resize(&result, size); /* NULL with an exception if it fails */
    return result;
}

static PyObject *encode(PyObject *Py_UNUSED(module), PyObject *text)
{
    if (!PyUnicode_Check(text))
        return PyErr_Format(PyExc_TypeError, "str, not %s", Py_TYPE(text)->tp_name);
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0)
        return NULL;
#endif
    Py_ssize_t count = PyUnicode_GET_LENGTH(text);
    PyObject *result = count < SHORT || count > PY_SSIZE_T_MAX / 8 || PyUnicode_IS_ASCII(text) ? NULL
                                                                                             : encode_wide(text, count);
    if (!result && !PyErr_Occurred()) /* simple, or wrong: CPython says where */
        result = PyUnicode_AsUTF8String(text);
    return result;
}
