/* The C twin of the hot functions: masking, UTF-8, frames (RFC 6455, sections 5.2, 5.3 and 8.1), HTTP heads.

   The Python twins in masking.py, utf8.py, frames.py and wholehead.py are the specification: the same results, the
   same errors. What is explained there is not explained again here.

   Buffers are held (Py_buffer) or owned (a reference to bytes) for as long as a pointer into them is
   used. The GIL is released for large payloads only, and only between immutable bytes and bytes that
   nobody else has seen yet. No arithmetic on lengths from the wire before they are known to fit. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_speedups_masking.h"

#define LARGE ((Py_ssize_t)1 << 20) /* bytes worth releasing the GIL for: some 30 us of masking */

#ifndef Py_BEGIN_CRITICAL_SECTION /* before CPython 3.13 */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* Define a method that runs another under the object's lock, where there is no GIL to stand in for it. */
#define LOCKED(name)                                              \
    static PyObject *name##_locked(PyObject *self, PyObject *arg) \
    {                                                             \
        PyObject *result;                                         \
        Py_BEGIN_CRITICAL_SECTION(self);                          \
        result = name(self, arg);                                 \
        Py_END_CRITICAL_SECTION();                                \
        return result;                                            \
    }

/* The same for a method that takes any number of arguments. */
#define LOCKED_FASTCALL(name)                                                                      \
    static PyObject *name##_locked(PyObject *self, PyObject *const *args, Py_ssize_t nargs)        \
    {                                                                                              \
        PyObject *result;                                                                          \
        Py_BEGIN_CRITICAL_SECTION(self);                                                           \
        result = name(self, args, nargs);                                                          \
        Py_END_CRITICAL_SECTION();                                                                 \
        return result;                                                                             \
    }

typedef struct {
    PyObject *protocol_error; /* exceptions.ProtocolError */
    PyTypeObject *frame;      /* frames.Frame; NULL until the first parser, since frames.py imports this module */
    PyTypeObject *message;    /* events.Message, likewise */
} State;

/* Raise ProtocolError; return -1. */
static int refuse(State *state, int close_code, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    PyObject *message = PyUnicode_FromFormatV(format, values);
    va_end(values);
    PyObject *error = message ? PyObject_CallFunction(state->protocol_error, "Oi", message, close_code) : NULL;
    if (error)
        PyErr_SetObject(state->protocol_error, error);
    Py_XDECREF(message);
    Py_XDECREF(error);
    return -1;
}

/* Spread positional and keyword arguments over their names; values of what was not given stay as they are. */
static int spread(PyObject *const *args, Py_ssize_t nargs, PyObject *keywords, const char *const *names,
                  Py_ssize_t required, Py_ssize_t count, PyObject **values)
{
    Py_ssize_t total = nargs + (keywords ? PyTuple_GET_SIZE(keywords) : 0);
    if (nargs > count) {
        PyErr_Format(PyExc_TypeError, "at most %zd arguments, not %zd", count, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < total; i++) {
        Py_ssize_t place = i;
        if (i >= nargs) {
            PyObject *name = PyTuple_GET_ITEM(keywords, i - nargs);
            for (place = 0; place < count; place++)
                if (PyUnicode_CompareWithASCIIString(name, names[place]) == 0)
                    break;
            if (place == count || place < nargs) {
                PyErr_Format(PyExc_TypeError, "unexpected or repeated argument %R", name);
                return -1;
            }
        }
        values[place] = args[i];
    }
    for (Py_ssize_t i = 0; i < required; i++)
        if (!values[i]) {
            PyErr_Format(PyExc_TypeError, "missing argument '%s'", names[i]);
            return -1;
        }
    return 0;
}

/* Read an int between two bounds; a ValueError that says so, if it is beyond them. */
static int read_int(PyObject *object, const char *name, long long least, long long most, long long *value)
{
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (*value == -1 && PyErr_Occurred())
        return -1;
    if (!overflow && least <= *value && *value <= most)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s %S out of its range", name, object);
    return -1;
}

/* ---- What the types have in common ---- */

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self)); /* bytes, all that the types hold, take part in no cycle */
    return 0;
}

static void release(PyObject *self, PyObject *held)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(held);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- Masking (5.3) ---- */

static int read_key(PyObject *object, Key *key)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
        return -1;
    Py_ssize_t size = view.len;
    if (size == 4)
        memcpy(key->bytes, view.buf, 4);
    PyBuffer_Release(&view);
    if (size == 4)
        return 0;
    PyErr_Format(PyExc_ValueError, "masking key of %zd bytes, not 4", size);
    return -1;
}

/* Return the key as it is for the payload byte that so many bytes precede. */
static Key turned(Key key, size_t by)
{
    Key result;
    for (size_t i = 0; i < 4; i++)
        result.bytes[i] = key.bytes[(i + by) % 4];
    return result;
}

/* Mask a held buffer, which object owns, to bytes that nobody else has seen yet. */
static void mask_out(PyObject *object, unsigned char *to, const Py_buffer *view, Key key)
{
    if (view->len < LARGE || !PyBytes_CheckExact(object)) {
        apply_key(to, view->buf, view->len, key);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    apply_key(to, view->buf, view->len, key);
    Py_END_ALLOW_THREADS
}

static PyObject *mask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"data", "key"};
    PyObject *values[2] = {NULL}, *result;
    Py_buffer view;
    Key key;
    if (spread(args, nargs, NULL, names, 2, 2, values) < 0 || read_key(values[1], &key) < 0)
        return NULL;
    if (PyObject_GetBuffer(values[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if ((result = PyBytes_FromStringAndSize(NULL, view.len)))
        mask_out(values[0], (unsigned char *)PyBytes_AS_STRING(result), &view, key);
    PyBuffer_Release(&view);
    return result;
}

static PyObject *mask_in_place(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"buffer", "key", "offset"};
    PyObject *values[3] = {NULL};
    unsigned long offset = 0;
    Py_buffer view;
    Key key;
    if (spread(args, nargs, NULL, names, 2, 3, values) < 0 || read_key(values[1], &key) < 0)
        return NULL;
    if (values[2] && (offset = PyLong_AsUnsignedLongMask(values[2])) == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (PyObject_GetBuffer(values[0], &view, PyBUF_WRITABLE) < 0)
        return NULL;
    apply_key(view.buf, view.buf, view.len, turned(key, offset));
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

/* ---- The types ---- */

#include "_speedups_parser.h"
#include "_speedups_payload.h"
#include "_speedups_utf8.h"
#include "_speedups_message.h"

/* ---- Serialising (5.2) ---- */

/* Write a header and return its size, or -1; values are opcode, anything, fin, rsv and key. */
static int write_header(unsigned char header[14], PyObject *const values[5], uint64_t length, Key *key)
{
    long long opcode, rsv = 0;
    int fin = values[2] ? PyObject_IsTrue(values[2]) : 1, masked = values[4] && values[4] != Py_None;
    if (fin < 0 || read_int(values[0], "opcode", 0, 15, &opcode) < 0)
        return -1;
    if (values[3] && read_int(values[3], "rsv", 0, 7, &rsv) < 0)
        return -1;
    if (masked && read_key(values[4], key) < 0)
        return -1;
    int extended = length < 126 ? 0 : length < 65536 ? 2 : 8;
    header[0] = (unsigned char)(fin << 7 | rsv << 4 | opcode);
    header[1] = (unsigned char)(masked << 7 | (extended == 0 ? (int)length : extended == 2 ? 126 : 127));
    for (int i = 0; i < extended; i++)
        header[2 + i] = (unsigned char)(length >> 8 * (extended - 1 - i));
    if (masked)
        memcpy(header + 2 + extended, key->bytes, 4);
    return 2 + extended + (masked ? 4 : 0);
}

static PyObject *serialize_header(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *keywords)
{
    static const char *const names[] = {"opcode", "length", "fin", "rsv", "key"};
    PyObject *values[5] = {NULL};
    unsigned char header[14];
    long long length;
    Key key;
    if (spread(args, nargs, keywords, names, 2, 5, values) < 0)
        return NULL;
    if (read_int(values[1], "length", 0, INT64_MAX, &length) < 0)
        return NULL;
    int size = write_header(header, values, (uint64_t)length, &key);
    return size < 0 ? NULL : PyBytes_FromStringAndSize((char *)header, size);
}

static PyObject *serialize(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    static const char *const names[] = {"opcode", "payload", "fin", "rsv", "key"};
    PyObject *values[5] = {NULL}, *frame = NULL;
    unsigned char header[14];
    Py_buffer view;
    Key key;
    if (spread(args, nargs, keywords, names, 2, 5, values) < 0)
        return NULL;
    if (PyObject_GetBuffer(values[1], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    int size = write_header(header, values, (uint64_t)view.len, &key);
    if (size < 0)
        goto release;
    if (view.len > PY_SSIZE_T_MAX - size)
        PyErr_NoMemory();
    else
        frame = PyBytes_FromStringAndSize(NULL, size + view.len);
    if (!frame)
        goto release;
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(frame);
    memcpy(to, header, size);
    if (header[1] & 0x80)
        mask_out(values[1], to + size, &view, key);
    else if (view.len)
        memcpy(to + size, view.buf, view.len);
release:
    PyBuffer_Release(&view);
    return frame;
}

#include "_speedups_head.h"

/* ---- The module ---- */

#define NAME(type) "websocketserver.protocol._speedups." type
#define FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE)

static PyType_Spec specs[] = {
    {NAME("Utf8Validator"), sizeof(Utf8Validator), 0, FLAGS, utf8_slots},
    {NAME("FrameParser"), sizeof(FrameParser), 0, FLAGS, parser_slots},
    {NAME("PayloadBuffer"), sizeof(PayloadBuffer), 0, FLAGS, payload_slots},
};

static int module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *exceptions = PyImport_ImportModule("websocketserver.exceptions");
    state->protocol_error = exceptions ? PyObject_GetAttrString(exceptions, "ProtocolError") : NULL;
    Py_XDECREF(exceptions);
    if (!state->protocol_error)
        return -1;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, &specs[i], NULL);
        int added = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
        Py_XDECREF(type);
        if (added < 0)
            return -1;
    }
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->protocol_error);
    Py_VISIT(state->frame);
    Py_VISIT(state->message);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->protocol_error);
    Py_CLEAR(state->frame);
    Py_CLEAR(state->message);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyMethodDef functions[] = {
    {"decode", decode, METH_O, "Return UTF-8 as str."},
    {"encode", encode, METH_O, "Return str as UTF-8."},
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL, "Return data masked with a 4-byte key."},
    {"mask_in_place", (PyCFunction)(void (*)(void))mask_in_place, METH_FASTCALL, "Mask a buffer with a 4-byte key."},
    {"serialize", (PyCFunction)(void (*)(void))serialize, METH_FASTCALL | METH_KEYWORDS, "Return one whole frame."},
    {"serialize_header", (PyCFunction)(void (*)(void))serialize_header, METH_FASTCALL | METH_KEYWORDS,
     "Return the header of a frame."},
    {"split_request", (PyCFunction)(void (*)(void))split_request, METH_FASTCALL, "Take a whole request head apart."},
    {"split_response", (PyCFunction)(void (*)(void))split_response, METH_FASTCALL, "Take a whole response head apart."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = "The C twins of the hot functions of masking, utf8, frames and wholehead.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
