/* What _express.c knows of the Python classes: their slots and methods, and where they are found. Part of _express.c. */

enum { CONNECTION, OUTPUT, RECEIVER, SENDER, TRANSPORT, PARSER, POOL, WORKER, CLIENT, ACCEPTED, OWNERS };
#define SERVER POOL /* from here on: of the server alone */


static const char *const OWNER_NAMES[OWNERS][2] = {
    {"websocketserver.connection", "WebSocketConnection"},
    {"websocketserver.output", "Output"},
    {"websocketserver.protocol.endpoint", "Receiver"},
    {"websocketserver.protocol.sender", "Sender"},
    {"websocketserver.transport", "PlainTransport"},
    {"websocketserver.protocol.frames", "FrameParser"},
    {"websocketserver.pool", "Pool"},
    {"websocketserver.pool", "_Worker"},
    {"websocketserver.pooled", "Pooled"},
    {"websocketserver.accepted", "Accepted"},
};

#define SLOTS(SLOT)                                                                                                  \
    SLOT(CONNECTION, _announce)                                                                                      \
    SLOT(CONNECTION, _bytes_received)                                                                                \
    SLOT(CONNECTION, _failed)                                                                                        \
    SLOT(CONNECTION, _gathering)                                                                                     \
    SLOT(CONNECTION, _guests)                                                                                        \
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
    SLOT(CONNECTION, settings)                                                                                       \
    SLOT(OUTPUT, broken)                                                                                             \
    SLOT(OUTPUT, bytes_sent)                                                                                         \
    SLOT(OUTPUT, gathered)                                                                                           \
    SLOT(OUTPUT, lock)                                                                                               \
    SLOT(OUTPUT, queued)                                                                                             \
    SLOT(OUTPUT, rest)                                                                                               \
    SLOT(OUTPUT, sender)                                                                                             \
    SLOT(RECEIVER, _as_fragments)                                                                                    \
    SLOT(RECEIVER, _decoders)                                                                                        \
    SLOT(RECEIVER, _in_message)                                                                                      \
    SLOT(RECEIVER, _max_size)                                                                                        \
    SLOT(RECEIVER, closed)                                                                                           \
    SLOT(RECEIVER, decode_text)                                                                                      \
    SLOT(RECEIVER, in_frame)                                                                                         \
    SLOT(RECEIVER, parser)                                                                                           \
    SLOT(SENDER, _new_key)                                                                                           \
    SLOT(SENDER, close_sent)                                                                                         \
    SLOT(SENDER, plain)                                                                                              \
    SLOT(TRANSPORT, direct)                                                                                          \
    SLOT(POOL, _awake)                                                                                               \
    SLOT(WORKER, passed)                                                                                             \
    SLOT(WORKER, passing)                                                                                            \
    SLOT(WORKER, tenant)                                                                                             \
    SLOT(WORKER, thread)                                                                                             \
    SLOT(WORKER, turns)                                                                                              \
    SLOT(CLIENT, _accepted)                                                                                          \
    SLOT(CLIENT, _connection)                                                                                        \
    SLOT(CLIENT, _simple)                                                                                            \
    SLOT(CLIENT, away)                                                                                               \
    SLOT(CLIENT, gone)                                                                                               \
    SLOT(CLIENT, slow)                                                                                               \
    SLOT(ACCEPTED, thread)

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
    METHOD(extend)                                                                                                   \
    METHOD(feed)                                                                                                     \
    METHOD(fileno)                                                                                                   \
    METHOD(locked)                                                                                                   \
    METHOD(max_queue_size)                                                                                           \
    METHOD(next_message)                                                                                             \
    METHOD(on_message)                                                                                               \
    METHOD(popleft)                                                                                                  \
    METHOD(release)                                                                                                  \
    METHOD(_begin_gathering)                                                                                         \
    METHOD(_end_turn)                                                                                                \
    METHOD(_flush)                                                                                                   \
    METHOD(_interrupted)                                                                                             \
    METHOD(_handle_event)                                                                                            \
    METHOD(_leave_gathering)                                                                                         \
    METHOD(_leave_pump)                                                                                              \
    METHOD(_look_ahead)                                                                                              \
    METHOD(_on_eof)                                                                                                  \
    METHOD(_parse)                                                                                                   \
    METHOD(_queue_messages)                                                                                          \
    METHOD(_stop_gathering)                                                                                          \
    METHOD(_tell_pool)

#define AS_NAME_INDEX(name) NAME_##name,
#define AS_NAME(name) #name,
enum { METHODS(AS_NAME_INDEX) NAME_COUNT };
static const char *const NAMES[] = {METHODS(AS_NAME)};

/* Numbers of the Python code: what they mean is said there. */
enum { OVERHEAD, MOST_AHEAD, LITTLE, READ_SIZE, GATHERED, JOINED, TEXT, BINARY, MAIN_THREAD, NUMBER_COUNT };
static const char *const NUMBERS[NUMBER_COUNT][2] = {
    {"websocketserver.intake", "OVERHEAD"},           {"websocketserver.intake", "MOST_AHEAD"},
    {"websocketserver.intake", "LITTLE"},             {"websocketserver.intake", "READ_SIZE"},
    {"websocketserver.output", "GATHERED"},           {"websocketserver.protocol.sender", "JOINED"},
    {"websocketserver.protocol.sender", "TEXT"},      {"websocketserver.protocol.sender", "BINARY"},
    {"websocketserver.deadline", "MAIN_THREAD"},
};

/* Where threads that come from a read wait for each other. */
typedef struct {
    PyThread_type_lock lock; /* held while taking the GIL back */
    atomic_int coming;       /* how many are about to have the GIL back */
    atomic_int reading;      /* how many read, waiting for what comes, and will want it back then */
} Gate;

typedef struct {
    PyObject *owners[OWNERS];      /* the classes */
    Py_ssize_t offsets[SLOT_COUNT]; /* of their slots in an instance */
    PyObject *names[NAME_COUNT];
    PyObject *numbers[NUMBER_COUNT];
    Py_ssize_t values[NUMBER_COUNT];
    PyObject *lock_type, *socket_type, *inbox_type, *message_type, *no_inbox, *gatherers, *never;
    PyObject *dont_wait;    /* the arguments of acquire(False) */
    PyObject *os, *new_key; /* the module, and what keys.py draws with */
    Key keys[256];          /* drawn beforehand, so many of them left */
    int keys_left;
    PyCFunction locked, acquire, release; /* of locks; NULL, as in the next line: look it up */
    PyCFunction popleft, extend;            /* of an inbox */
    PyCFunction fileno, feed;               /* of sockets, and of the parser; as the next */
    _PyCFunctionFast next_message, next_messages;
    Gate *gate; /* never freed: who comes from a read may come late */
    int ready, server; /* found with the first call, what is the server's with the first that serves: our modules
                          cannot be imported while they import this */
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
    PyObject *before = *place(state, object, slot), *after;
    long long value = before ? PyLong_AsLongLong(before) : 0;
    if ((value == -1 && PyErr_Occurred()) || !(after = PyLong_FromLongLong(value + more)))
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

static inline int is_lock(const State *state, PyObject *lock)
{
    return lock && (PyObject *)Py_TYPE(lock) == state->lock_type;
}

/* Whether a lock looks free: nobody does anything under it for as long as the GIL is ours; -1 with an exception. */
static int is_free(const State *state, PyObject *lock)
{
    if (!is_lock(state, lock))
        return 0;
    PyObject *locked = state->locked ? state->locked(lock, NULL) : call(state, lock, NAME_locked);
    Py_XDECREF(locked);
    return locked ? locked == Py_False : -1;
}

/* Whether a connection has opened its inbox. */
static inline int is_inbox(const State *state, PyObject *inbox)
{
    return inbox && (PyObject *)Py_TYPE(inbox) == state->inbox_type && inbox != state->no_inbox;
}

static inline int is_empty_list(PyObject *list)
{
    return list && PyList_CheckExact(list) && PyList_GET_SIZE(list) == 0;
}

/* Return the descriptor to use, -1 where the transport wants to be asked, maybe with an exception. The socket is asked
   each time: once the application has closed it, the number may be another's. */
static int descriptor(const State *state, PyObject *self)
{
    PyObject *transport = GET(CONNECTION, _transport, self);
    PyObject *sock = is_plain(state, TRANSPORT, transport) ? GET(TRANSPORT, direct, transport) : NULL;
    if (!sock || (PyObject *)Py_TYPE(sock) != state->socket_type)
        return -1;
    PyObject *number = state->fileno ? state->fileno(sock, NULL) : call(state, sock, NAME_fileno);
    long fd = number ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    return (int)fd;
}

/* ---- Finding them ---- */

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

/* Find the function behind a method that a class has in C: called straight, it costs a third. NULL, maybe with an
   exception, where it is another's, or does not take its arguments in this way. */
static PyCFunction find_function(PyObject *type, const char *name, int flags)
{
    PyObject *method = PyObject_GetAttrString(type, name);
    PyMethodDef *found = method && Py_IS_TYPE(method, &PyMethodDescr_Type) ? ((PyMethodDescrObject *)method)->d_method
                                                                          : NULL;
    Py_XDECREF(method); /* the class, which is kept, has it */
    return found && found->ml_flags == flags ? found->ml_meth : NULL;
}

static _PyCFunctionFast find_fast_function(PyObject *type, const char *name)
{
    return (_PyCFunctionFast)(void (*)(void))find_function(type, name, METH_FASTCALL);
}

static int find_functions(State *state)
{
    state->locked = find_function(state->lock_type, "locked", METH_NOARGS);
    state->acquire = find_function(state->lock_type, "acquire", METH_VARARGS | METH_KEYWORDS);
    state->release = find_function(state->lock_type, "release", METH_NOARGS);
    state->fileno = find_function(state->socket_type, "fileno", METH_NOARGS);
    state->feed = find_function(state->owners[PARSER], "feed", METH_O);
    state->next_message = find_fast_function(state->owners[PARSER], "next_message");
    state->next_messages = find_fast_function(state->owners[PARSER], "next_messages");
    state->popleft = find_function(state->inbox_type, "popleft", METH_NOARGS);
    state->extend = find_function(state->inbox_type, "extend", METH_O);
    return PyErr_Occurred() ? -1 : 0;
}

/* Find classes, from one to before another, and their slots. */
static int find_classes(State *state, int first, int end)
{
    for (int i = first; i < end; i++)
        if (!state->owners[i] && !(state->owners[i] = find(OWNER_NAMES[i][0], OWNER_NAMES[i][1])))
            return -1;
    for (int i = 0; i < SLOT_COUNT; i++)
        if (first <= PLACES[i].owner && PLACES[i].owner < end && find_slot(state, i) < 0)
            return -1;
    return 0;
}

static int find_all(State *state)
{
    if (state->ready)
        return 0;
    if (find_classes(state, 0, SERVER) < 0)
        return -1;
    for (int i = 0; i < NAME_COUNT; i++)
        if (!(state->names[i] = PyUnicode_InternFromString(NAMES[i])))
            return -1;
    for (int i = 0; i < NUMBER_COUNT; i++) {
        if (!(state->numbers[i] = find(NUMBERS[i][0], NUMBERS[i][1])))
            return -1;
        state->values[i] = PyLong_AsSsize_t(state->numbers[i]);
    }
    state->lock_type = find("_thread", "LockType");
    state->socket_type = find("socket", "socket");
    state->inbox_type = find("collections", "deque");
    state->message_type = find("websocketserver.protocol.events", "Message");
    state->no_inbox = find("websocketserver.pump", "EMPTY");
    state->gatherers = find("websocketserver.pump", "gatherers");
    state->never = find("websocketserver.pump", "NEVER");
    state->dont_wait = PyTuple_Pack(1, Py_False);
    state->os = PyImport_ImportModule("os");
    state->new_key = find("websocketserver.keys", "new_key");
    state->ready = !PyErr_Occurred() && find_functions(state) == 0;
    return state->ready ? 0 : -1;
}

static int find_server(State *state)
{
    if (!state->server && find_classes(state, SERVER, OWNERS) < 0)
        return -1;
    state->server = 1;
    return 0;
}

static int check_arguments(State *state, PyObject *const *args, Py_ssize_t nargs, Py_ssize_t wanted)
{
    if (find_all(state) < 0)
        return -1;
    if (nargs == wanted && PyObject_TypeCheck(args[0], (PyTypeObject *)state->owners[CONNECTION]))
        return 0;
    PyErr_Format(PyExc_TypeError, "a WebSocketConnection, and %zd arguments with it", wanted);
    return -1;
}
