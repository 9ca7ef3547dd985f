/* The common case of receiving and of sending, each in one call: see express.py, whose functions these replace.

   What is read and written here are the slots of the Python classes, whose files say what they mean. Two rules
   hold it together. While the GIL is held, nobody is inside a state lock that looks free: looking is as good as
   taking it. The write lock, under which the GIL is given away, is taken, but never waited for. And whatever is not
   the common case is left to Python before anything was done, or with all of it noted where Python looks for it.
   So there is none of this where there is no GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

enum { CONNECTION, OUTPUT, RECEIVER, SENDER, TRANSPORT, PARSER, OWNERS };

static const char *const OWNER_NAMES[OWNERS][2] = {
    {"websocketserver.connection", "WebSocketConnection"},
    {"websocketserver.output", "Output"},
    {"websocketserver.protocol.endpoint", "Receiver"},
    {"websocketserver.protocol.endpoint", "Sender"},
    {"websocketserver.transport", "PlainTransport"},
    {"websocketserver.protocol.frames", "FrameParser"},
};

#define SLOTS(SLOT)                                                                                                  \
    SLOT(CONNECTION, _announce)                                                                                      \
    SLOT(CONNECTION, _bytes_received)                                                                                \
    SLOT(CONNECTION, _events)                                                                                        \
    SLOT(CONNECTION, _failed)                                                                                        \
    SLOT(CONNECTION, _gathering)                                                                                     \
    SLOT(CONNECTION, _held)                                                                                          \
    SLOT(CONNECTION, _inbox)                                                                                         \
    SLOT(CONNECTION, _inbox_size)                                                                                    \
    SLOT(CONNECTION, _input_over)                                                                                    \
    SLOT(CONNECTION, _lock)                                                                                          \
    SLOT(CONNECTION, _messages_received)                                                                             \
    SLOT(CONNECTION, _messages_sent)                                                                                 \
    SLOT(CONNECTION, _output)                                                                                        \
    SLOT(CONNECTION, _over)                                                                                          \
    SLOT(CONNECTION, _pumping)                                                                                       \
    SLOT(CONNECTION, _reads)                                                                                         \
    SLOT(CONNECTION, _receiver)                                                                                      \
    SLOT(CONNECTION, _room)                                                                                          \
    SLOT(CONNECTION, _sent)                                                                                          \
    SLOT(CONNECTION, _skipping)                                                                                      \
    SLOT(CONNECTION, _speaker)                                                                                       \
    SLOT(CONNECTION, _transport)                                                                                     \
    SLOT(CONNECTION, _turn)                                                                                          \
    SLOT(CONNECTION, _unparsed)                                                                                      \
    SLOT(CONNECTION, _waiting)                                                                                       \
    SLOT(OUTPUT, broken)                                                                                             \
    SLOT(OUTPUT, bytes_sent)                                                                                         \
    SLOT(OUTPUT, gathered)                                                                                           \
    SLOT(OUTPUT, lock)                                                                                               \
    SLOT(OUTPUT, queued)                                                                                             \
    SLOT(OUTPUT, rest)                                                                                               \
    SLOT(OUTPUT, sender)                                                                                             \
    SLOT(RECEIVER, _as_fragments)                                                                                    \
    SLOT(RECEIVER, _in_message)                                                                                      \
    SLOT(RECEIVER, _max_size)                                                                                        \
    SLOT(RECEIVER, closed)                                                                                           \
    SLOT(RECEIVER, decode_text)                                                                                      \
    SLOT(RECEIVER, in_frame)                                                                                         \
    SLOT(RECEIVER, parser)                                                                                           \
    SLOT(SENDER, _new_key)                                                                                           \
    SLOT(SENDER, close_sent)                                                                                         \
    SLOT(SENDER, plain)                                                                                              \
    SLOT(TRANSPORT, direct)

#define AS_INDEX(owner, name) owner##name,
#define AS_PLACE(owner, name) {owner, #name},
enum { SLOTS(AS_INDEX) SLOT_COUNT };
static const struct {
    int owner;
    const char *name;
} PLACES[] = {SLOTS(AS_PLACE)};

#define METHODS(METHOD)                                                                                              \
    METHOD(acquire)                                                                                                  \
    METHOD(buffered)                                                                                                 \
    METHOD(feed)                                                                                                     \
    METHOD(locked)                                                                                                   \
    METHOD(next_message)                                                                                             \
    METHOD(popleft)                                                                                                  \
    METHOD(release)                                                                                                  \
    METHOD(_flush)                                                                                                   \
    METHOD(_interrupted)                                                                                             \
    METHOD(_leave_pump)                                                                                              \
    METHOD(_look_ahead)                                                                                              \
    METHOD(_on_eof)                                                                                                  \
    METHOD(_tell_pool)

#define AS_NAME_INDEX(name) NAME_##name,
#define AS_NAME(name) #name,
enum { METHODS(AS_NAME_INDEX) NAME_COUNT };
static const char *const NAMES[] = {METHODS(AS_NAME)};

/* Numbers of the Python code: what they mean is said there. */
enum { OVERHEAD, LITTLE, READ_SIZE, GATHERED, JOINED, TEXT, BINARY, MAIN_THREAD, NUMBER_COUNT };
static const char *const NUMBERS[NUMBER_COUNT][2] = {
    {"websocketserver.intake", "OVERHEAD"},           {"websocketserver.intake", "LITTLE"},
    {"websocketserver.intake", "READ_SIZE"},          {"websocketserver.output", "GATHERED"},
    {"websocketserver.protocol.endpoint", "JOINED"},  {"websocketserver.protocol.endpoint", "TEXT"},
    {"websocketserver.protocol.endpoint", "BINARY"},  {"websocketserver.deadline", "MAIN_THREAD"},
};

/* Where threads that come from a read wait for each other. */
typedef struct {
    PyThread_type_lock lock; /* held while taking the GIL back */
    atomic_int coming;       /* how many are about to have the GIL back */
} Gate;

typedef struct {
    PyObject *owners[OWNERS];      /* the classes */
    Py_ssize_t offsets[SLOT_COUNT]; /* of their slots in an instance */
    PyObject *names[NAME_COUNT];
    PyObject *numbers[NUMBER_COUNT];
    Py_ssize_t values[NUMBER_COUNT];
    PyObject *zero, *serialize, *lock_type;
    Gate *gate; /* never freed: who comes from a read may come late */
    int ready; /* all of this is found with the first call: our modules cannot be imported while they import this */
} State;

/* ---- Slots ---- */

static inline PyObject **place(const State *state, PyObject *object, int slot)
{
    return (PyObject **)((char *)object + state->offsets[slot]);
}

#define GET(owner, name, object) (*place(state, object, owner##name))
#define IS(owner, name, object, value) (GET(owner, name, object) == (value))

static inline void put(const State *state, PyObject *object, int slot, PyObject *value) /* takes the reference */
{
    PyObject **at = place(state, object, slot), *old = *at;
    *at = value;
    Py_XDECREF(old);
}

static inline void put_bool(const State *state, PyObject *object, int slot, int value)
{
    PyObject *flag = value ? Py_True : Py_False;
    Py_INCREF(flag);
    put(state, object, slot, flag);
}

/* Add to a counter; -1 with an exception. */
static int count(const State *state, PyObject *object, int slot, Py_ssize_t more)
{
    PyObject *before = *place(state, object, slot), *amount, *after;
    if (!before || !(amount = PyLong_FromSsize_t(more)))
        return -1;
    after = PyNumber_Add(before, amount);
    Py_DECREF(amount);
    if (!after)
        return -1;
    put(state, object, slot, after);
    return 0;
}

/* Whether an object is of just that class: slots are where the class has them, and stand-ins have none. */
static inline int is_plain(const State *state, int owner, PyObject *object)
{
    return object && (PyObject *)Py_TYPE(object) == state->owners[owner];
}

static PyObject *call(const State *state, PyObject *object, int name)
{
    return PyObject_CallMethodNoArgs(object, state->names[name]);
}

/* Call a method for what it does; -1 with an exception. */
static int run(const State *state, PyObject *object, int name)
{
    PyObject *result = call(state, object, name);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Whether a lock looks free: nobody does anything under it for as long as the GIL is ours; -1 with an exception. */
static int is_free(const State *state, PyObject *lock)
{
    if (!lock || (PyObject *)Py_TYPE(lock) != state->lock_type)
        return 0;
    PyObject *locked = call(state, lock, NAME_locked);
    Py_XDECREF(locked);
    return locked ? locked == Py_False : -1;
}

static inline int is_empty_list(PyObject *list)
{
    return list && PyList_CheckExact(list) && PyList_GET_SIZE(list) == 0;
}

/* Return the descriptor to use, -1 where the transport wants to be asked. */
static int descriptor(const State *state, PyObject *self)
{
    PyObject *transport = GET(CONNECTION, _transport, self);
    if (!is_plain(state, TRANSPORT, transport))
        return -1;
    PyObject *direct = GET(TRANSPORT, direct, transport);
    return direct && PyLong_CheckExact(direct) ? (int)PyLong_AsLong(direct) : -1;
}

static int find_all(State *state);

static int check_arguments(State *state, PyObject *const *args, Py_ssize_t nargs)
{
    if (!state->ready && find_all(state) < 0)
        return -1;
    if (nargs == 2 && PyObject_TypeCheck(args[0], (PyTypeObject *)state->owners[CONNECTION]))
        return 0;
    PyErr_SetString(PyExc_TypeError, "a WebSocketConnection and one argument more");
    return -1;
}

/* ---- Receiving ---- */

#define ON_STACK 4096 /* bytes: as LITTLE */
#define FEW 32        /* threads that may wait for the GIL at once */
#define LOOK_UP 200   /* milliseconds that the main thread waits at once: as in deadline.py */

/* Take the GIL back; where many do, one at a time. Who waits for the GIL wakes up every few milliseconds to ask for it,
   who waits at the gate does not: a thousand threads would do little else. A few are faster without. */
static void take_gil(Gate *gate, PyThreadState *thread)
{
    int many = gate && atomic_fetch_add(&gate->coming, 1) >= FEW;
    if (many)
        PyThread_acquire_lock(gate->lock, WAIT_LOCK);
    PyEval_RestoreThread(thread); /* does not return when the interpreter is ending, nor would it for who waits here */
    if (many)
        PyThread_release_lock(gate->lock);
    if (gate)
        atomic_fetch_sub(&gate->coming, 1);
}

/* Receive up to room bytes: NULL without an exception where there was an error, which is then in errno.

   ``wait`` is as for poll(2), and EINTR comes where that was not enough. What does not wait keeps the GIL: it takes
   less time than to get the GIL back from a thread that has taken it. */
static PyObject *receive_bytes(const State *state, int fd, Py_ssize_t room, int wait)
{
    char little[ON_STACK];
    PyObject *data = room <= ON_STACK ? NULL : PyBytes_FromStringAndSize(NULL, room);
    if (room > ON_STACK && !data)
        return NULL;
    char *to = data ? PyBytes_AS_STRING(data) : little;
    ssize_t size = -1;
    int error = EINTR;
    if (wait) {
        struct pollfd readable = {fd, POLLIN, 0};
        Gate *gate = wait < 0 ? state->gate : NULL; /* the main thread still runs when others have ended */
        PyThreadState *thread = PyEval_SaveThread();
        if (wait < 0 || poll(&readable, 1, wait) > 0) {
            size = recv(fd, to, room, wait < 0 ? 0 : MSG_DONTWAIT);
            error = errno;
        }
        take_gil(gate, thread);
    }
    else {
        size = recv(fd, to, room, MSG_DONTWAIT);
        error = errno;
    }
    if (size < 0) {
        Py_XDECREF(data);
        errno = error;
        return NULL;
    }
    if (!data)
        return PyBytes_FromStringAndSize(little, size);
    _PyBytes_Resize(&data, size); /* NULL with an exception if it fails */
    return data;
}

/* As the pump, note the end of the peer's stream. */
static int note_end(const State *state, PyObject *self, const char *detail)
{
    PyObject *text = PyUnicode_FromString(detail);
    PyObject *result = text ? PyObject_CallMethodOneArg(self, state->names[NAME__on_eof], text) : NULL;
    Py_XDECREF(text);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* As the pump, feed the parser what was read. */
static int take_in(const State *state, PyObject *self, PyObject *receiver, PyObject *data)
{
    PyObject *parser = GET(RECEIVER, parser, receiver);
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    int room = size < state->values[LITTLE] ? LITTLE : READ_SIZE;
    PyObject *fed = PyObject_CallMethodOneArg(parser, state->names[NAME_feed], data);
    Py_XDECREF(fed);
    put_bool(state, self, CONNECTION_unparsed, 1);
    Py_INCREF(state->numbers[room]);
    put(state, self, CONNECTION_room, state->numbers[room]);
    return fed ? count(state, self, CONNECTION_bytes_received, size) : -1;
}

/* As the pump, read, maybe waiting for it, and feed what came: 1 if there is some, 0 if not, -1 with an exception.
   ``lost`` tells whether bytes have been read when an exception comes. */
static int read_input(const State *state, PyObject *self, PyObject *receiver, int fd, int waits, int *lost)
{
    Py_ssize_t room = PyLong_AsSsize_t(GET(CONNECTION, _room, self));
    PyObject *data = NULL;
    if (room < 1)
        return PyErr_Occurred() ? -1 : 0;
    int wait = !waits ? 0 : PyThread_get_thread_ident() == (unsigned long)state->values[MAIN_THREAD] ? LOOK_UP : -1;
    while (!(data = receive_bytes(state, fd, room, wait))) {
        if (PyErr_Occurred())
            return -1;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        if (errno != EINTR)
            return note_end(state, self, strerror(errno));
        if (PyErr_CheckSignals() < 0) /* it only waited */
            return -1;
    }
    int result = -1;
    *lost = 1;
    if (PyErr_CheckSignals() == 0)
        result = PyBytes_GET_SIZE(data) ? take_in(state, self, receiver, data) == 0 ? 1 : -1
                                        : note_end(state, self, "the stream ended without a Close");
    Py_DECREF(data);
    return result;
}

/* As the pump, return the next message, or None where there is none, or it needs a second look. */
static PyObject *next_message(const State *state, PyObject *self, PyObject *receiver, int ahead)
{
    PyObject *parser = GET(RECEIVER, parser, receiver);
    if (!is_plain(state, PARSER, parser) || !IS(CONNECTION, _sent, self, Py_None) ||
        !IS(CONNECTION, _failed, self, Py_False)) /* since this began to wait */
        return Py_NewRef(Py_None);
    PyObject *args[] = {parser, GET(RECEIVER, _max_size, receiver), GET(RECEIVER, decode_text, receiver)};
    PyObject *message = PyObject_VectorcallMethod(state->names[NAME_next_message], args, 3, NULL);
    if (!message || message == Py_None)
        return message;
    PyObject *buffered = PyObject_GetAttr(parser, state->names[NAME_buffered]);
    int more = buffered ? PyObject_IsTrue(buffered) : -1;
    Py_XDECREF(buffered);
    if (more >= 0) {
        put_bool(state, self, CONNECTION_unparsed, more);
        if (count(state, self, CONNECTION_events, 1) < 0 || count(state, self, CONNECTION_messages_received, 1) < 0)
            more = -1;
    }
    if (more < 0 || (more && ahead && run(state, self, NAME__look_ahead) < 0))
        Py_CLEAR(message);
    return message;
}

/* Leave the pump: here if nobody has to be told, which is what comes first. */
static int leave_pump(const State *state, PyObject *self)
{
    int free = is_free(state, GET(CONNECTION, _lock, self));
    PyObject *waiting = GET(CONNECTION, _waiting, self);
    if (free < 0)
        return -1;
    if (free && PyObject_Not(waiting) && IS(CONNECTION, _over, self, Py_False)) {
        put_bool(state, self, CONNECTION_pumping, 0);
        return count(state, self, CONNECTION_reads, 1);
    }
    return run(state, self, NAME__leave_pump);
}

static void leave_with_error(const State *state, PyObject *self, int lost)
{
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    if (lost && run(state, self, NAME__interrupted) < 0)
        PyErr_WriteUnraisable(self);
    if (leave_pump(state, self) < 0)
        PyErr_WriteUnraisable(self);
    PyErr_Restore(kind, error, traceback);
}

static PyObject *pump(const State *state, PyObject *self, PyObject *receiver, int fd, int ahead, int waits)
{
    PyObject *message = NULL;
    int lost = IS(CONNECTION, _unparsed, self, Py_True);
    put_bool(state, self, CONNECTION_pumping, 1);
    int input = lost ? 1 : read_input(state, self, receiver, fd, waits, &lost);
    if (input == 0)
        message = Py_NewRef(Py_None);
    else if (input > 0)
        message = next_message(state, self, receiver, ahead);
    if (!message)
        leave_with_error(state, self, lost);
    else if (leave_pump(state, self) < 0 ||
             (waits && !IS(CONNECTION, _announce, self, Py_None) && run(state, self, NAME__tell_pool) < 0))
        Py_CLEAR(message);
    return message;
}

/* Take the next event from the inbox, the state lock being free. */
static PyObject *take(const State *state, PyObject *self, PyObject *inbox)
{
    PyObject *event = call(state, inbox, NAME_popleft);
    PyObject *data = event && PyTuple_Check(event) && PyTuple_GET_SIZE(event) ? PyTuple_GET_ITEM(event, 0) : NULL;
    Py_ssize_t size = data ? PyObject_Size(data) : -1;
    if (event && (size < 0 || count(state, self, CONNECTION_inbox_size, -size - state->values[OVERHEAD]) < 0))
        Py_CLEAR(event);
    return event;
}

static PyObject *receive(State *state, PyObject *self, int ahead, int waits)
{
    PyObject *inbox = GET(CONNECTION, _inbox, self);
    int free = is_free(state, GET(CONNECTION, _lock, self));
    if (free <= 0 || !IS(CONNECTION, _turn, self, Py_None))
        return free < 0 ? NULL : Py_NewRef(Py_None);
    Py_ssize_t waiting = PyObject_Size(inbox);
    if (waiting > 0 && PyObject_Not(GET(CONNECTION, _waiting, self)))
        return take(state, self, inbox);
    PyObject *receiver = GET(CONNECTION, _receiver, self), *output = GET(CONNECTION, _output, self);
    int fd = descriptor(state, self);
    int plain = waiting == 0 && fd >= 0 && is_plain(state, RECEIVER, receiver) && is_plain(state, OUTPUT, output) &&
                is_plain(state, PARSER, GET(RECEIVER, parser, receiver)) && IS(CONNECTION, _gathering, self, Py_None) &&
                IS(CONNECTION, _input_over, self, Py_False) && IS(CONNECTION, _pumping, self, Py_False) &&
                IS(CONNECTION, _over, self, Py_False) && (!waits || IS(CONNECTION, _announce, self, Py_None)) &&
                IS(CONNECTION, _sent, self, Py_None) && IS(CONNECTION, _held, self, Py_None) &&
                IS(CONNECTION, _failed, self, Py_False) && IS(CONNECTION, _skipping, self, Py_False) &&
                is_empty_list(GET(OUTPUT, queued, output)) && is_empty_list(GET(OUTPUT, rest, output)) &&
                IS(RECEIVER, in_frame, receiver, Py_False) && IS(RECEIVER, _in_message, receiver, Py_False) &&
                IS(RECEIVER, _as_fragments, receiver, Py_False) && IS(RECEIVER, closed, receiver, Py_False);
    if (!plain)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return pump(state, self, receiver, fd, ahead, waits);
}

static PyObject *receive_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    return check_arguments(state, args, nargs) < 0 ? NULL : receive(state, args[0], args[1] == Py_True, 1);
}

static PyObject *ready_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    return check_arguments(state, args, nargs) < 0 ? NULL : receive(state, args[0], args[1] == Py_True, 0);
}

/* In the child of a fork: the gate may be held by a thread that is not here. */
static PyObject *renew_gate(PyObject *module, PyObject *Py_UNUSED(nothing))
{
    Gate *gate = PyMem_RawCalloc(1, sizeof *gate);
    if (gate)
        gate->lock = PyThread_allocate_lock();
    if (!gate || !gate->lock) {
        PyMem_RawFree(gate);
        return PyErr_NoMemory();
    }
    ((State *)PyModule_GetState(module))->gate = gate;
    Py_RETURN_NONE;
}

/* ---- Sending ---- */

/* Return a payload as a frame without a mask (5.2); at most JOINED bytes, which fit into two of length. */
static PyObject *make_plain_frame(int opcode, const char *payload, Py_ssize_t size)
{
    int head = size < 126 ? 2 : 4;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, head + size);
    if (!frame)
        return NULL;
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(frame);
    to[0] = 0x80 | opcode;
    to[1] = head == 2 ? size : 126;
    if (head == 4) {
        to[2] = size >> 8;
        to[3] = size & 0xFF;
    }
    memcpy(to + head, payload, size);
    return frame;
}

/* Return one message as a frame; NULL, maybe without an exception, where that is left to Python. */
static PyObject *make_frame(const State *state, PyObject *sender, PyObject *message)
{
    int text = PyUnicode_CheckExact(message);
    PyObject *args[5] = {state->numbers[text ? TEXT : BINARY], NULL, Py_True, state->zero, NULL}, *frame = NULL;
    PyObject *new_key = GET(SENDER, _new_key, sender);
    if (!IS(SENDER, plain, sender, Py_True) || !(text || PyBytes_CheckExact(message)) ||
        PyObject_Size(message) > state->values[JOINED])
        return NULL;
    if (new_key == Py_None && text && PyUnicode_IS_COMPACT_ASCII(message))
        return make_plain_frame(state->values[TEXT], PyUnicode_DATA(message), PyUnicode_GET_LENGTH(message));
    args[1] = text ? PyUnicode_AsUTF8String(message) : Py_NewRef(message);
    if (!args[1])
        PyErr_Clear(); /* a lone surrogate: Python says so */
    else if (PyBytes_GET_SIZE(args[1]) <= state->values[JOINED] &&
             (new_key == Py_None || (args[4] = PyObject_CallNoArgs(new_key))))
        frame = PyObject_Vectorcall(state->serialize, args, args[4] ? 5 : 2, NULL);
    Py_XDECREF(args[1]);
    Py_XDECREF(args[4]);
    return frame;
}

/* Add a frame to what this thread gathers: 1 if that is done, 0 if not, -1 with an exception. */
static int gather(const State *state, PyObject *self, PyObject *gathered, PyObject *frame)
{
    unsigned long thread = PyLong_AsUnsignedLong(GET(CONNECTION, _gathering, self));
    if (thread == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    if (thread != PyThread_get_thread_ident() || !PyByteArray_GET_SIZE(gathered) ||
        PyByteArray_GET_SIZE(gathered) + PyBytes_GET_SIZE(frame) >= state->values[GATHERED])
        return 0;
    PyObject *same = PySequence_InPlaceConcat(gathered, frame);
    Py_XDECREF(same);
    return same && count(state, self, CONNECTION_messages_sent, 1) == 0 ? 1 : -1;
}

/* Holding the write lock, send a frame: how many bytes were taken, 0 also for errors, which come again. */
static Py_ssize_t send_bytes(int fd, PyObject *frame, int lets_others)
{
    ssize_t size;
    if (lets_others) {
        Py_BEGIN_ALLOW_THREADS
        size = send(fd, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), MSG_DONTWAIT);
        Py_END_ALLOW_THREADS
    }
    else /* in a pool: its leader has others to serve, and nobody to wait for */
        size = send(fd, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), MSG_DONTWAIT);
    return size < 0 ? 0 : size;
}

/* Leave the write lock and look again at what was queued meanwhile. */
static int unlock(const State *state, PyObject *self, PyObject *output)
{
    if (run(state, GET(OUTPUT, lock, output), NAME_release) < 0)
        return -1;
    if (is_empty_list(GET(OUTPUT, queued, output)) && is_empty_list(GET(OUTPUT, rest, output)) &&
        IS(CONNECTION, _over, self, Py_False))
        return 0;
    return run(state, self, NAME__flush);
}

/* Leave the write lock with an exception: nobody knows what has left, so nothing may follow it. */
static PyObject *sending_failed(const State *state, PyObject *self, PyObject *output)
{
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyObject *done = PyObject_CallMethod(self, "_cut", "s", "interrupted while sending");
    if (!done || unlock(state, self, output) < 0)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(done);
    PyErr_Restore(kind, error, traceback);
    return NULL;
}

/* Keep what was not taken of a frame. */
static int keep_rest(const State *state, PyObject *output, PyObject *frame, Py_ssize_t taken)
{
    PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(frame) + taken, PyBytes_GET_SIZE(frame) - taken);
    int failed = rest ? PyList_Append(GET(OUTPUT, rest, output), rest) : -1;
    Py_XDECREF(rest);
    return failed;
}

/* Send a frame: True, False where it is left to Python, or None where part of it was taken; then the lock is held. */
static PyObject *send_frame(const State *state, PyObject *self, PyObject *output, int fd, PyObject *frame)
{
    /* Up to CPython 3.12 a lock that was just handed to a waiter does not look locked; and to wait for it here would
       make all that was looked at before untrue. */
    PyObject *ours = PyObject_CallMethodOneArg(GET(OUTPUT, lock, output), state->names[NAME_acquire], Py_False);
    Py_XDECREF(ours);
    if (ours != Py_True)
        return ours ? Py_NewRef(Py_False) : NULL;
    Py_ssize_t taken = send_bytes(fd, frame, IS(CONNECTION, _announce, self, Py_None));
    int partly = 0 < taken && taken < PyBytes_GET_SIZE(frame);
    if (count(state, output, OUTPUTbytes_sent, taken) < 0 || (partly && keep_rest(state, output, frame, taken) < 0) ||
        (taken && !partly && count(state, self, CONNECTION_messages_sent, 1) < 0))
        return sending_failed(state, self, output);
    if (partly)
        return Py_NewRef(Py_None);
    return unlock(state, self, output) < 0 ? NULL : PyBool_FromLong(taken > 0);
}

static PyObject *send_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    if (check_arguments(state, args, nargs) < 0)
        return NULL;
    PyObject *self = args[0], *output = GET(CONNECTION, _output, self);
    PyObject *sender = is_plain(state, OUTPUT, output) ? GET(OUTPUT, sender, output) : NULL;
    if (!is_plain(state, SENDER, sender))
        Py_RETURN_FALSE;
    PyObject *frame = make_frame(state, sender, args[1]), *result = NULL;
    if (!frame)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    PyObject *gathered = GET(OUTPUT, gathered, output), *broken = GET(OUTPUT, broken, output);
    int done = 0, fd = descriptor(state, self), free = is_free(state, GET(OUTPUT, lock, output));
    int plain = free > 0 && fd >= 0 && IS(CONNECTION, _sent, self, Py_None) &&
                IS(CONNECTION, _input_over, self, Py_False) && IS(CONNECTION, _speaker, self, Py_None) &&
                IS(SENDER, close_sent, sender, Py_False) && is_empty_list(GET(OUTPUT, queued, output)) &&
                is_empty_list(GET(OUTPUT, rest, output)) && PyByteArray_CheckExact(gathered) && PyObject_Not(broken);
    if (free < 0 || PyErr_Occurred())
        done = -1;
    else if (plain && !IS(CONNECTION, _gathering, self, Py_None))
        done = gather(state, self, gathered, frame);
    else if (plain && !PyByteArray_GET_SIZE(gathered))
        result = send_frame(state, self, output, fd, frame);
    else
        plain = 0;
    if (!result && !PyErr_Occurred())
        result = PyBool_FromLong(done > 0);
    Py_DECREF(frame);
    return result;
}

/* ---- The module ---- */

/* Return an attribute of a module. */
static PyObject *find(const char *module, const char *name)
{
    PyObject *found = PyImport_ImportModule(module), *value = found ? PyObject_GetAttrString(found, name) : NULL;
    Py_XDECREF(found);
    return value;
}

/* Find where a slot is in the instances of its class. */
static int find_slot(State *state, int slot)
{
    PyObject *owner = state->owners[PLACES[slot].owner];
    PyObject *member = PyObject_GetAttrString(owner, PLACES[slot].name);
    int found = member && Py_IS_TYPE(member, &PyMemberDescr_Type) &&
                ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX;
    if (found)
        state->offsets[slot] = ((PyMemberDescrObject *)member)->d_member->offset;
    else if (member)
        PyErr_Format(PyExc_ImportError, "%R has no slot %s", owner, PLACES[slot].name);
    Py_XDECREF(member);
    return found ? 0 : -1;
}

static int find_all(State *state)
{
    for (int i = 0; i < OWNERS; i++)
        if (!(state->owners[i] = find(OWNER_NAMES[i][0], OWNER_NAMES[i][1])))
            return -1;
    for (int i = 0; i < SLOT_COUNT; i++)
        if (find_slot(state, i) < 0)
            return -1;
    for (int i = 0; i < NAME_COUNT; i++)
        if (!(state->names[i] = PyUnicode_InternFromString(NAMES[i])))
            return -1;
    for (int i = 0; i < NUMBER_COUNT; i++) {
        if (!(state->numbers[i] = find(NUMBERS[i][0], NUMBERS[i][1])))
            return -1;
        state->values[i] = PyLong_AsSsize_t(state->numbers[i]);
    }
    state->zero = PyLong_FromLong(0);
    state->lock_type = find("_thread", "LockType");
    state->serialize = find("websocketserver.protocol.frames", "serialize");
    state->ready = state->serialize && state->lock_type && !PyErr_Occurred();
    return state->ready ? 0 : -1;
}

static int module_exec(PyObject *module)
{
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "what this module does rests on the GIL");
    return -1;
#else
    PyObject *renewed = renew_gate(module, NULL);
    Py_XDECREF(renewed);
    return renewed ? 0 : -1;
#endif
}

#define EACH(array, size, act)             \
    for (int i = 0; i < (int)(size); i++) { \
        act((array)[i]);                    \
    }

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    EACH(state->owners, OWNERS, Py_VISIT)
    EACH(state->names, NAME_COUNT, Py_VISIT)
    EACH(state->numbers, NUMBER_COUNT, Py_VISIT)
    Py_VISIT(state->zero);
    Py_VISIT(state->serialize);
    Py_VISIT(state->lock_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    EACH(state->owners, OWNERS, Py_CLEAR)
    EACH(state->names, NAME_COUNT, Py_CLEAR)
    EACH(state->numbers, NUMBER_COUNT, Py_CLEAR)
    Py_CLEAR(state->zero);
    Py_CLEAR(state->serialize);
    Py_CLEAR(state->lock_type);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyMethodDef functions[] = {
    {"receive_at_once", (PyCFunction)(void (*)(void))receive_at_once, METH_FASTCALL,
     "Return the next event where that is simple, else None."},
    {"ready_at_once", (PyCFunction)(void (*)(void))ready_at_once, METH_FASTCALL,
     "Return the next event where it is here and that is simple, else None."},
    {"send_at_once", (PyCFunction)(void (*)(void))send_at_once, METH_FASTCALL,
     "Send a message where that is simple, else return False; None where it was begun."},
    {"renew_gate", renew_gate, METH_NOARGS, "For the child of a fork."},
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
    .m_name = "_express",
    .m_doc = "The common case of receiving and of sending, each in one call.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__express(void)
{
    return PyModuleDef_Init(&definition);
}
