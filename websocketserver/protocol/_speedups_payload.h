/* The C twin of payload.PayloadBuffer, part of _speedups.c.

   What its views show is never moved: while one is alive, whatever would move it is refused. */

typedef struct {
    PyObject_HEAD
    PyObject *content;           /* bytes nobody else has seen, as large as was allocated; NULL if nothing was */
    Py_ssize_t length, capacity; /* bytes counted; and with the room that reserve has made */
    Py_ssize_t offered;          /* bytes the next view shows; 0 except in reserve */
    Py_ssize_t views;            /* alive */
} PayloadBuffer;

#define LEAST_ROOM ((Py_ssize_t)4096)
#define FIRST_ROOM ((Py_ssize_t)16384)
#define LARGEST_READ ((Py_ssize_t)1 << 20)

static int payload_check_views(PayloadBuffer *self)
{
    if (!self->views)
        return 0;
    PyErr_SetString(PyExc_BufferError, "a view of the buffer's room is still alive");
    return -1;
}

/* Allocate room for so many bytes behind length. */
static int payload_make_room(PayloadBuffer *self, Py_ssize_t room)
{
    Py_ssize_t allocated = self->content ? PyBytes_GET_SIZE(self->content) : 0;
    if (room <= allocated - self->length)
        return 0;
    if (room > PY_SSIZE_T_MAX / 2 - self->length) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t size = self->length + room;
    if (!self->content)
        return (self->content = PyBytes_FromStringAndSize(NULL, size)) ? 0 : -1;
    if (_PyBytes_Resize(&self->content, size) < 0) {
        self->length = self->capacity = 0; /* the content is gone with it */
        return -1;
    }
    return 0;
}

static PyObject *payload_append(PyObject *object, PyObject *data)
{
    PayloadBuffer *self = (PayloadBuffer *)object;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    int made = payload_check_views(self);
    if (made == 0 && view.len > (self->content ? PyBytes_GET_SIZE(self->content) : 0) - self->length)
        made = payload_make_room(self, Py_MAX(view.len, self->length / 2)); /* more, so that this is seldom */
    if (view.len && made == 0) {
        memcpy(PyBytes_AS_STRING(self->content) + self->length, view.buf, view.len);
        self->length += view.len;
        self->capacity = Py_MAX(self->capacity, self->length);
    }
    PyBuffer_Release(&view);
    if (made < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *payload_reserve(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    static const char *const names[] = {"size", "last"};
    PayloadBuffer *self = (PayloadBuffer *)object;
    PyObject *values[2] = {NULL};
    if (spread(args, nargs, NULL, names, 1, 2, values) < 0)
        return NULL;
    Py_ssize_t size = PyNumber_AsSsize_t(values[0], NULL);
    int last = values[1] ? PyObject_IsTrue(values[1]) : 0;
    if ((size == -1 && PyErr_Occurred()) || last < 0)
        return NULL;
    if (size < 1) {
        PyErr_Format(PyExc_ValueError, "room for %zd bytes", size);
        return NULL;
    }
    Py_ssize_t room = self->capacity - self->length;
    if (room < Py_MIN(size, LEAST_ROOM)) {
        room = Py_MAX(self->length, FIRST_ROOM);
        if (room > PY_SSIZE_T_MAX / 4) {
            PyErr_NoMemory();
            return NULL;
        }
        if (size <= 2 * room)
            room = size;
        if (!last)
            room = Py_MAX(room, self->length / 2);
        if (payload_check_views(self) < 0 || payload_make_room(self, room) < 0)
            return NULL;
        self->capacity = self->length + room;
    }
    self->offered = Py_MIN(Py_MIN(size, room), LARGEST_READ);
    PyObject *view = PyMemoryView_FromObject(object);
    self->offered = 0;
    return view;
}

static PyObject *payload_commit(PyObject *object, PyObject *count)
{
    PayloadBuffer *self = (PayloadBuffer *)object;
    Py_ssize_t size = PyNumber_AsSsize_t(count, NULL);
    if (size == -1 && PyErr_Occurred())
        return NULL;
    if (size < 0 || size > self->capacity - self->length) {
        PyErr_Format(PyExc_ValueError, "%zd bytes in room for %zd", size, self->capacity - self->length);
        return NULL;
    }
    self->length += size;
    Py_RETURN_NONE;
}

static PyObject *payload_take(PyObject *object, PyObject *Py_UNUSED(arg))
{
    PayloadBuffer *self = (PayloadBuffer *)object;
    if (payload_check_views(self) < 0)
        return NULL;
    PyObject *content = self->content;
    Py_ssize_t length = self->length;
    self->content = NULL;
    self->length = self->capacity = 0;
    if (!length) {
        Py_XDECREF(content);
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    if (length < PyBytes_GET_SIZE(content))
        _PyBytes_Resize(&content, length); /* NULL with an exception if it fails */
    return content;
}

LOCKED(payload_append)
LOCKED_FASTCALL(payload_reserve)
LOCKED(payload_commit)
LOCKED(payload_take)

static int payload_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    PayloadBuffer *self = (PayloadBuffer *)object;
    if (!self->offered) {
        PyErr_SetString(PyExc_BufferError, "reserve() gives views of the buffer's room");
        return -1;
    }
    char *room = PyBytes_AS_STRING(self->content) + self->length;
    if (PyBuffer_FillInfo(view, object, room, self->offered, 0, flags) < 0)
        return -1;
    self->views++;
    return 0;
}

static void payload_release_buffer(PyObject *self, Py_buffer *Py_UNUSED(view))
{
    Py_BEGIN_CRITICAL_SECTION(self);
    ((PayloadBuffer *)self)->views--;
    Py_END_CRITICAL_SECTION();
}

static Py_ssize_t payload_length(PyObject *self)
{
    return ((PayloadBuffer *)self)->length;
}

static void payload_dealloc(PyObject *self)
{
    release(self, ((PayloadBuffer *)self)->content);
}

static PyMethodDef payload_methods[] = {
    {"append", payload_append_locked, METH_O, "Add bytes."},
    {"reserve", (PyCFunction)(void (*)(void))payload_reserve_locked, METH_FASTCALL, "Return writable room right behind the end."},
    {"commit", payload_commit_locked, METH_O, "Count bytes that were written into the reserved room."},
    {"take", payload_take_locked, METH_NOARGS, "Return all bytes and be empty again."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot payload_slots[] = {
    {Py_tp_doc, "The bytes of one message under way."},
    {Py_tp_dealloc, payload_dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_methods, payload_methods},
    {Py_sq_length, payload_length},
    {Py_bf_getbuffer, payload_get_buffer},
    {Py_bf_releasebuffer, payload_release_buffer},
    {0, NULL},
};
