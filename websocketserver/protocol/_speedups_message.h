/* The C twin of FrameParser.next_message and next_messages in frames.py, part of _speedups.c; and the type. */

#define SCRATCH 1024 /* bytes on the stack; text of up to so many is unmasked there */

static const unsigned char TEXT_BEGINS = 0x81, BINARY_BEGINS = 0x82; /* FIN, no reserved bits (5.2) */

/* Find a whole message of one frame: 1 with where its payload is, 0 where next_frame is to decide. */
static int find_message(FrameParser *self, int64_t limit, Py_ssize_t *payload, Py_ssize_t *size)
{
    Py_ssize_t left = self->end - self->at, head = self->masked ? 6 : 2;
    if (self->remaining || left < head)
        return 0;
    const unsigned char *data = (unsigned char *)PyBytes_AS_STRING(self->data) + self->at;
    if ((data[0] != TEXT_BEGINS && data[0] != BINARY_BEGINS) || data[1] >> 7 != self->masked)
        return 0;
    Py_ssize_t length = data[1] & 0x7F;
    if (length == 127)
        return 0;
    if (length == 126) {
        head += 2;
        if (left < head || (length = data[2] << 8 | data[3]) < 126)
            return 0;
    }
    if (length > left - head || length > limit || length > self->max_size)
        return 0;
    *payload = self->at + head;
    *size = length;
    return 1;
}

/* Return the payload as bytes. */
static PyObject *unmasked_bytes(FrameParser *self, const unsigned char *payload, Py_ssize_t size, Key key)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, size);
    if (result && self->masked)
        apply_key((unsigned char *)PyBytes_AS_STRING(result), payload, size, key);
    else if (result && size)
        memcpy(PyBytes_AS_STRING(result), payload, size);
    return result;
}

/* Return the payload as text. */
static PyObject *unmasked_text(FrameParser *self, const unsigned char *payload, Py_ssize_t size, Key key)
{
    unsigned char scratch[SCRATCH];
    if (!self->masked)
        return PyUnicode_DecodeUTF8((const char *)payload, size, NULL);
    if (size <= SCRATCH) {
        apply_key(scratch, payload, size, key);
        return PyUnicode_DecodeUTF8((const char *)scratch, size, NULL);
    }
    PyObject *bytes = unmasked_bytes(self, payload, size, key);
    PyObject *text = bytes ? PyUnicode_DecodeUTF8(PyBytes_AS_STRING(bytes), size, NULL) : NULL;
    Py_XDECREF(bytes);
    return text;
}

/* Return what a message holds; NULL without an exception where its text is not UTF-8. */
static PyObject *read_payload(FrameParser *self, const unsigned char *payload, Py_ssize_t size, int text, int decode)
{
    Key key = {{0}};
    if (self->masked)
        memcpy(key.bytes, payload - 4, 4);
    if (text && decode) {
        PyObject *result = unmasked_text(self, payload, size, key);
        if (!result && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
            PyErr_Clear();
        return result;
    }
    PyObject *result = unmasked_bytes(self, payload, size, key);
    if (result && text && check_utf8(DONE, (unsigned char *)PyBytes_AS_STRING(result), size) != DONE)
        Py_CLEAR(result);
    return result;
}

/* Take the next message; NULL, maybe with an exception, where there is none. */
static PyObject *take_message(FrameParser *self, int64_t limit, int decode)
{
    Py_ssize_t at, size;
    if (!find_message(self, limit, &at, &size))
        return NULL;
    const unsigned char *data = (unsigned char *)PyBytes_AS_STRING(self->data);
    int text = data[self->at] == TEXT_BEGINS;
    PyObject *payload = read_payload(self, data + at, size, text, decode);
    PyObject *message = payload ? self->module->message->tp_alloc(self->module->message, 2) : NULL;
    if (!message) {
        Py_XDECREF(payload);
        return NULL;
    }
    begin_tuple(message);
    PyTuple_SET_ITEM(message, 0, payload);
    PyTuple_SET_ITEM(message, 1, PyBool_FromLong(text));
    self->at = at + size;
    if (self->at == self->end)
        parser_hold(self, NULL, 0, 0);
    return message;
}

/* Read the arguments max_size and decode. */
static int read_wishes(PyObject *const *values, int64_t *limit, int *decode)
{
    int overflow = 0;
    *limit = INT64_MAX;
    if (values[0] != Py_None && (*limit = PyLong_AsLongLongAndOverflow(values[0], &overflow)) == -1 && PyErr_Occurred())
        return -1;
    if (overflow)
        *limit = overflow > 0 ? INT64_MAX : -1;
    return *decode = PyObject_IsTrue(values[1]);
}

static PyObject *parser_next_message(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"max_size", "decode"};
    PyObject *values[2] = {NULL};
    int64_t limit;
    int decode;
    if (spread(args, nargs, NULL, names, 2, 2, values) < 0 || read_wishes(values, &limit, &decode) < 0)
        return NULL;
    PyObject *message = take_message((FrameParser *)object, limit, decode);
    if (message || PyErr_Occurred())
        return message;
    Py_RETURN_NONE;
}

static PyObject *parser_next_messages(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"max_size", "decode", "room", "each"};
    FrameParser *self = (FrameParser *)object;
    PyObject *values[4] = {NULL}, *message;
    long long room, each;
    int64_t limit;
    int decode;
    if (spread(args, nargs, NULL, names, 4, 4, values) < 0 || read_wishes(values, &limit, &decode) < 0)
        return NULL;
    if (read_int(values[2], "room", 0, PY_SSIZE_T_MAX, &room) < 0 ||
        read_int(values[3], "each", 0, PY_SSIZE_T_MAX, &each) < 0)
        return NULL;
    PyObject *messages = PyList_New(0);
    while (messages && room > 0) {
        Py_ssize_t before = self->end - self->at;
        if (!(message = take_message(self, limit, decode)))
            break;
        room -= before - (self->end - self->at);
        room -= Py_MIN(room, each);
        if (PyList_Append(messages, message) < 0)
            Py_CLEAR(messages);
        Py_DECREF(message);
    }
    if (PyErr_Occurred())
        Py_CLEAR(messages);
    return messages;
}

/* ---- The type ---- */

LOCKED(parser_feed)
LOCKED(parser_next_frame)
LOCKED(parser_unmask)
LOCKED_FASTCALL(parser_next_message)
LOCKED_FASTCALL(parser_next_messages)

static PyObject *parser_buffered(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(((FrameParser *)self)->end - ((FrameParser *)self)->at);
}

static PyObject *parser_remaining(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(((FrameParser *)self)->remaining);
}

static void parser_dealloc(PyObject *self)
{
    release(self, ((FrameParser *)self)->data);
}

static PyMethodDef parser_methods[] = {
    {"feed", parser_feed_locked, METH_O, "Take bytes as they came from the peer."},
    {"next_frame", parser_next_frame_locked, METH_NOARGS, "Return the next frame or piece of one, or None."},
    {"next_message", (PyCFunction)(void (*)(void))parser_next_message_locked, METH_FASTCALL,
     "Return the next message, if it is one whole frame, or None."},
    {"next_messages", (PyCFunction)(void (*)(void))parser_next_messages_locked, METH_FASTCALL,
     "Return the messages that next_message would give, one after the other."},
    {"unmask", parser_unmask_locked, METH_O, "Unmask the next payload bytes of the current frame in place."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef parser_attributes[] = {
    {"buffered", parser_buffered, NULL, "Bytes fed and not yet given out.", NULL},
    {"remaining", parser_remaining, NULL, "Payload bytes of the current frame still to come.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot parser_slots[] = {
    {Py_tp_doc, "Feed bytes, ask for frames; None means that more bytes are needed."},
    {Py_tp_new, parser_new},
    {Py_tp_dealloc, parser_dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_methods, parser_methods},
    {Py_tp_getset, parser_attributes},
    {0, NULL},
};
