/* The C twin of frames.FrameParser, part of _speedups.c (RFC 6455, section 5.2). */

typedef struct {
    PyObject_HEAD
    State *module;
    PyObject *data;     /* bytes, of which those from at to end are still to be given out; NULL if there are none */
    Py_ssize_t at, end;
    int own;            /* data is ours to write to, with room behind end; else it is what was fed */
    int masked, rsv;
    int64_t max_size;
    int64_t length, remaining; /* of the current frame, as first and key (turned to the next payload byte) */
    unsigned char first;
    Key key;
} FrameParser;

/* Find Frame and Message; not done while this module is imported, since frames.py is what imports it. */
static int find_tuples(State *state)
{
    static const char *const names[] = {"Frame", "Message"};
    PyTypeObject **types[] = {&state->frame, &state->message};
    PyObject *frames = PyImport_ImportModule("websocketserver.protocol.frames");
    for (int i = 0; frames && i < 2; i++) {
        PyObject *type = *types[i] ? NULL : PyObject_GetAttrString(frames, names[i]);
        if (type && PyType_Check(type) && PyType_IsSubtype((PyTypeObject *)type, &PyTuple_Type))
            *types[i] = (PyTypeObject *)type;
        else if (type) {
            PyErr_Format(PyExc_TypeError, "frames.%s is not a tuple", names[i]);
            Py_DECREF(type);
        }
    }
    Py_XDECREF(frames);
    return PyErr_Occurred() ? -1 : 0;
}

/* Prepare a new tuple of a class of ours for its items: filled in directly, no call, no keywords. */
static void begin_tuple(PyObject *tuple)
{
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)tuple)->ob_hash = -1; /* not yet computed */
#else
    (void)tuple;
#endif
}

static PyObject *parser_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"masked", "max_size", "rsv", NULL};
    PyObject *max_size = Py_None, *rsv = NULL;
    int masked = -1, overflow = 0;
    long long limit = INT64_MAX, bits = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$pOO:FrameParser", names, &masked, &max_size, &rsv))
        return NULL;
    if (masked < 0) {
        PyErr_SetString(PyExc_TypeError, "missing argument 'masked'");
        return NULL;
    }
    if (rsv && read_int(rsv, "rsv", 0, 7, &bits) < 0)
        return NULL;
    if (max_size != Py_None && (limit = PyLong_AsLongLongAndOverflow(max_size, &overflow)) == -1 && PyErr_Occurred())
        return NULL;
    State *module = PyType_GetModuleState(type);
    int found = module->frame && module->message ? 0 : find_tuples(module);
    FrameParser *self = found < 0 ? NULL : (FrameParser *)type->tp_alloc(type, 0);
    if (self) {
        self->module = module;
        self->masked = masked;
        self->max_size = overflow > 0 ? INT64_MAX : limit;
        self->rsv = (int)bits;
    }
    return (PyObject *)self;
}

/* Hold other data instead, or none; takes the reference. */
static void parser_hold(FrameParser *self, PyObject *data, Py_ssize_t end, int own)
{
    PyObject *old = self->data;
    self->data = data;
    self->at = 0;
    self->end = end;
    self->own = own;
    Py_XDECREF(old);
}

/* Make room for so many bytes behind end, in a buffer of our own. */
static int parser_make_room(FrameParser *self, Py_ssize_t size)
{
    Py_ssize_t left = self->end - self->at;
    Py_ssize_t capacity = self->own ? PyBytes_GET_SIZE(self->data) : 0;
    if (size <= capacity - self->end)
        return 0;
    if (self->at >= left && size <= capacity - left) { /* moves less than was used up since it moved last */
        char *start = PyBytes_AS_STRING(self->data);
        memmove(start, start + self->at, left);
        self->at = 0;
        self->end = left;
        return 0;
    }
    if (size > PY_SSIZE_T_MAX / 2 - left) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *data = PyBytes_FromStringAndSize(NULL, (left + size) + (left + size) / 2);
    if (!data)
        return -1;
    if (left)
        memcpy(PyBytes_AS_STRING(data), PyBytes_AS_STRING(self->data) + self->at, left);
    parser_hold(self, data, left, 1);
    return 0;
}

static PyObject *parser_feed(PyObject *object, PyObject *data)
{
    FrameParser *self = (FrameParser *)object;
    if (self->at == self->end && PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data)) {
        Py_INCREF(data);
        parser_hold(self, data, PyBytes_GET_SIZE(data), 0);
        Py_RETURN_NONE;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    int made = view.len ? parser_make_room(self, view.len) : 0;
    if (view.len && made == 0) {
        memcpy(PyBytes_AS_STRING(self->data) + self->end, view.buf, view.len);
        self->end += view.len;
    }
    PyBuffer_Release(&view);
    if (made < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Check the two bytes that every frame begins with. */
static int check_header(FrameParser *self, unsigned char first, unsigned char second)
{
    int opcode = first & 0x0F, rsv = first >> 4 & 7, control = opcode & 8;
    if ((rsv & ~self->rsv) || (rsv && opcode != 1 && opcode != 2))
        return refuse(self->module, 1002, "reserved bits set"); /* 5.2; RFC 7692, 6 */
    if ((opcode & 7) > 2)
        return refuse(self->module, 1002, "unknown opcode 0x%x", opcode); /* 5.2 */
    if (second >> 7 != self->masked)
        return refuse(self->module, 1002, self->masked ? "frame is not masked" : "frame is masked"); /* 5.1 */
    if (control && (second & 0x7F) > 125)
        return refuse(self->module, 1002, "control frame of more than 125 bytes"); /* 5.5 */
    if (control && first < 0x80)
        return refuse(self->module, 1002, "fragmented control frame"); /* 5.5 */
    return 0;
}

/* Read a payload length that came in so many bytes of its own, and check it. */
static int read_length(FrameParser *self, const unsigned char *data, int size, int64_t *length)
{
    uint64_t value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | data[i];
    if (value < (size == 2 ? 126 : 65536))
        return refuse(self->module, 1002, "payload length not in its shortest form"); /* 5.2 */
    if (value >> 63)
        return refuse(self->module, 1002, "payload length with its highest bit set"); /* 5.2 */
    *length = (int64_t)value;
    return 0;
}

/* Check what there is of a header and take it, if it is complete (1; else 0, or -1 with an exception). */
static int take_header(FrameParser *self)
{
    Py_ssize_t left = self->end - self->at, size = 2;
    if (left < 2)
        return 0;
    const unsigned char *data = (unsigned char *)PyBytes_AS_STRING(self->data) + self->at;
    if (check_header(self, data[0], data[1]) < 0)
        return -1;
    int64_t length = data[1] & 0x7F;
    int control = data[0] & 8;
    if (length > 125) {
        int extended = length == 126 ? 2 : 8;
        if (left < 2 + extended)
            return 0;
        if (read_length(self, data + 2, extended, &length) < 0)
            return -1;
        size += extended;
    }
    if (!control && length > self->max_size)
        return refuse(self->module, 1009, "frame of %lld bytes, the limit is %lld (max_frame_size)", (long long)length,
                      (long long)self->max_size); /* 7.4.1, 10.4 */
    size += self->masked ? 4 : 0;
    if (left < size + (control ? (Py_ssize_t)length : 0))
        return 0;
    self->first = data[0];
    self->length = self->remaining = length;
    if (self->masked)
        memcpy(self->key.bytes, data + size - 4, 4);
    self->at += size;
    return 1;
}

/* Return a Frame; takes the reference to the payload. */
static PyObject *new_frame(FrameParser *self, PyObject *payload)
{
    PyTypeObject *type = self->module->frame;
    PyObject *frame = type->tp_alloc(type, 6);
    if (!frame) {
        Py_DECREF(payload);
        return NULL;
    }
    begin_tuple(frame);
    PyObject *length = PyLong_FromLongLong(self->length);
    PyTuple_SET_ITEM(frame, 0, PyLong_FromLong(self->first & 0x0F)); /* small ints exist already */
    PyTuple_SET_ITEM(frame, 1, PyBool_FromLong(self->first & 0x80));
    PyTuple_SET_ITEM(frame, 2, PyLong_FromLong(self->first >> 4 & 7));
    PyTuple_SET_ITEM(frame, 3, length);
    PyTuple_SET_ITEM(frame, 4, payload);
    PyTuple_SET_ITEM(frame, 5, PyBool_FromLong(self->remaining == 0));
    if (!length)
        Py_CLEAR(frame);
    return frame;
}

/* Take what there is of the current frame's payload. */
static PyObject *take_piece(FrameParser *self)
{
    Py_ssize_t left = self->end - self->at;
    Py_ssize_t size = self->remaining < left ? (Py_ssize_t)self->remaining : left;
    PyObject *payload = PyBytes_FromStringAndSize(NULL, size);
    if (!payload)
        return NULL;
    if (size) {
        unsigned char *to = (unsigned char *)PyBytes_AS_STRING(payload);
        const unsigned char *from = (unsigned char *)PyBytes_AS_STRING(self->data) + self->at;
        if (self->masked)
            apply_key(to, from, size, self->key);
        else
            memcpy(to, from, size);
    }
    self->key = turned(self->key, size);
    self->remaining -= size;
    self->at += size;
    if (self->at == self->end)
        parser_hold(self, NULL, 0, 0);
    return new_frame(self, payload);
}

static PyObject *parser_next_frame(PyObject *object, PyObject *Py_UNUSED(arg))
{
    FrameParser *self = (FrameParser *)object;
    if (self->remaining) {
        if (self->at < self->end)
            return take_piece(self);
        Py_RETURN_NONE;
    }
    int taken = take_header(self);
    if (taken < 0)
        return NULL;
    if (taken)
        return take_piece(self);
    if (self->at) { /* let go of what was used up: the beginning of a frame may have to wait for long */
        Py_ssize_t left = self->end - self->at;
        PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self->data) + self->at, left);
        if (!rest)
            return NULL;
        parser_hold(self, rest, left, 0);
    }
    Py_RETURN_NONE;
}

static PyObject *parser_unmask(PyObject *object, PyObject *buffer)
{
    FrameParser *self = (FrameParser *)object;
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return NULL;
    int fits = self->at == self->end && view.len <= self->remaining;
    if (!fits)
        PyErr_Format(PyExc_ValueError, "%zd bytes to unmask, %zd buffered and %lld remaining", view.len,
                     self->end - self->at, (long long)self->remaining);
    else {
        self->remaining -= view.len;
        if (self->masked)
            apply_key(view.buf, view.buf, view.len, self->key);
        self->key = turned(self->key, view.len);
    }
    PyBuffer_Release(&view);
    if (!fits)
        return NULL;
    Py_RETURN_NONE;
}
