/* Receiving in one call, part of _express.c: what connection.py and pump.py do in several. */

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
    if (gate) {
        atomic_fetch_sub(&gate->coming, 1);
        atomic_fetch_sub(&gate->reading, 1);
    }
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
        if (gate)
            atomic_fetch_add(&gate->reading, 1);
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
    PyObject *fed = state->feed && is_plain(state, PARSER, parser) /* no stand-in since this began to wait */
                        ? state->feed(parser, data)
                        : PyObject_CallMethodOneArg(parser, state->names[NAME_feed], data);
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
    if (!wait || PyErr_CheckSignals() == 0)
        result = PyBytes_GET_SIZE(data) ? take_in(state, self, receiver, data) == 0 ? 1 : -1
                                        : note_end(state, self, "the stream ended without a Close");
    Py_DECREF(data);
    return result;
}

/* How to receive: what has come with the message goes into the inbox; may wait for it. */
enum { AHEAD = 1, WAITS = 2 };

/* Note that so many messages were parsed, and whether there may be more; return that, -1 with an exception. */
static int note_messages(const State *state, PyObject *self, PyObject *parser, Py_ssize_t messages)
{
    PyObject *buffered = PyObject_GetAttr(parser, state->names[NAME_buffered]);
    int more = buffered ? PyObject_IsTrue(buffered) : -1;
    Py_XDECREF(buffered);
    if (more < 0)
        return -1;
    put_bool(state, self, CONNECTION_unparsed, more);
    return count(state, self, CONNECTION_messages_received, messages) < 0 ? -1 : more;
}

/* Parse messages that come next, as many as an empty inbox has room for. */
static PyObject *parse_messages(const State *state, PyObject *self, PyObject *receiver, PyObject *parser)
{
    PyObject *limit = PyObject_GetAttr(GET(CONNECTION, settings, self), state->names[NAME_max_queue_size]);
    Py_ssize_t most = limit && limit != Py_None ? PyNumber_AsSsize_t(limit, NULL) : PY_SSIZE_T_MAX;
    Py_XDECREF(limit);
    PyObject *room = PyErr_Occurred() ? NULL : PyLong_FromSsize_t(Py_MAX(1, Py_MIN(most, state->values[MOST_AHEAD])));
    if (!room)
        return NULL;
    PyObject *args[] = {GET(RECEIVER, _max_size, receiver), GET(RECEIVER, decode_text, receiver), room,
                        state->numbers[OVERHEAD]};
    PyObject *messages = state->next_messages(parser, args, 4);
    Py_DECREF(room);
    return messages;
}

/* As the pump, put messages into the inbox: here if nobody has to be told, and there is one. */
static int queue_messages(const State *state, PyObject *self, PyObject *messages)
{
    PyObject *inbox = GET(CONNECTION, _inbox, self), *result = NULL;
    int free = is_free(state, GET(CONNECTION, _lock, self));
    if (free < 0)
        return -1;
    if (!free || PyObject_IsTrue(GET(CONNECTION, _waiting, self)) || !is_inbox(state, inbox) || !state->extend) {
        result = PyObject_CallMethodOneArg(self, state->names[NAME__queue_messages], messages);
        Py_XDECREF(result);
        return result ? 0 : -1;
    }
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(messages); i++)
        size += state->values[OVERHEAD] + PyObject_Size(PyTuple_GET_ITEM(PyList_GET_ITEM(messages, i), 0));
    result = state->extend(inbox, messages);
    Py_XDECREF(result);
    return result ? count(state, self, CONNECTION_inbox_size, size) : -1;
}

/* As the pump, move what has already come into the inbox: whole messages here, what else there is in Python. */
static int look_ahead(const State *state, PyObject *self, PyObject *receiver, PyObject *parser)
{
    int more = 1;
    if (state->next_messages && PyObject_Not(GET(CONNECTION, _inbox_size, self))) {
        PyObject *messages = parse_messages(state, self, receiver, parser);
        more = messages ? note_messages(state, self, parser, PyList_GET_SIZE(messages)) : -1;
        if (more >= 0 && PyList_GET_SIZE(messages) && queue_messages(state, self, messages) < 0)
            more = -1;
        Py_XDECREF(messages);
    }
    return more > 0 ? run(state, self, NAME__look_ahead) : more;
}

/* As the pump, return the next event where messages may be encoded, or None: what is done meanwhile may be anything. */
static PyObject *parse_encoded(const State *state, PyObject *self, int how)
{
    PyObject *event = call(state, self, NAME__parse);
    if (event && event != Py_None && IS(CONNECTION, _unparsed, self, Py_True) && how & AHEAD &&
        run(state, self, NAME__look_ahead) < 0)
        Py_CLEAR(event);
    return event;
}

/* As the pump, return the next message, or None where there is none, or it needs a second look. */
static PyObject *next_message(const State *state, PyObject *self, PyObject *receiver, int how)
{
    PyObject *parser = GET(RECEIVER, parser, receiver);
    if (!is_plain(state, PARSER, parser) || !IS(CONNECTION, _sent, self, Py_None) ||
        !IS(CONNECTION, _failed, self, Py_False)) /* since this began to wait */
        return Py_NewRef(Py_None);
    PyObject *args[] = {parser, GET(RECEIVER, _max_size, receiver), GET(RECEIVER, decode_text, receiver)};
    Py_INCREF(parser); /* a trace may put another in its place */
    PyObject *message = state->next_message
                            ? state->next_message(parser, args + 1, 2)
                            : PyObject_VectorcallMethod(state->names[NAME_next_message], args, 3, NULL);
    if (message == Py_None && PyObject_IsTrue(GET(RECEIVER, _decoders, receiver))) {
        Py_SETREF(message, parse_encoded(state, self, how));
    }
    else {
        int more = message && message != Py_None ? note_messages(state, self, parser, 1) : 0;
        if (more < 0 || (more && how & AHEAD && look_ahead(state, self, receiver, parser) < 0))
            Py_CLEAR(message);
    }
    Py_DECREF(parser);
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

static PyObject *pump(const State *state, PyObject *self, PyObject *receiver, int fd, int how)
{
    PyObject *message = NULL;
    int lost = IS(CONNECTION, _unparsed, self, Py_True);
    put_bool(state, self, CONNECTION_pumping, 1);
    int input = lost ? 1 : read_input(state, self, receiver, fd, how & WAITS, &lost);
    if (input == 0)
        message = Py_NewRef(Py_None);
    else if (input > 0)
        message = next_message(state, self, receiver, how);
    if (!message)
        leave_with_error(state, self, lost);
    else if (leave_pump(state, self) < 0 ||
             (how & WAITS && !IS(CONNECTION, _announce, self, Py_None) && run(state, self, NAME__tell_pool) < 0))
        Py_CLEAR(message);
    return message;
}

/* Take the next event from the inbox, the state lock being free. */
static PyObject *take(const State *state, PyObject *self, PyObject *inbox)
{
    PyObject *event = state->popleft && is_inbox(state, inbox) ? state->popleft(inbox, NULL)
                                                               : call(state, inbox, NAME_popleft);
    PyObject *data = event && PyTuple_Check(event) && PyTuple_GET_SIZE(event) ? PyTuple_GET_ITEM(event, 0) : NULL;
    Py_ssize_t size = data ? PyObject_Size(data) : -1;
    if (event && (size < 0 || count(state, self, CONNECTION_inbox_size, -size - state->values[OVERHEAD]) < 0))
        Py_CLEAR(event);
    return event;
}

static PyObject *receive(const State *state, PyObject *self, int how)
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
                IS(CONNECTION, _over, self, Py_False) && (!(how & WAITS) || IS(CONNECTION, _announce, self, Py_None)) &&
                IS(CONNECTION, _sent, self, Py_None) && IS(CONNECTION, _held, self, Py_None) &&
                IS(CONNECTION, _failed, self, Py_False) && IS(CONNECTION, _skipping, self, Py_False) &&
                is_empty_list(GET(OUTPUT, queued, output)) && is_empty_list(GET(OUTPUT, rest, output)) &&
                IS(RECEIVER, in_frame, receiver, Py_False) && IS(RECEIVER, _in_message, receiver, Py_False) &&
                IS(RECEIVER, _as_fragments, receiver, Py_False) && IS(RECEIVER, closed, receiver, Py_False);
    if (!plain)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return pump(state, self, receiver, fd, how);
}

static PyObject *receive_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    return check_arguments(state, args, nargs, 2) < 0 ? NULL : receive(state, args[0], WAITS | (args[1] == Py_True ? AHEAD : 0));
}

static PyObject *ready_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    return check_arguments(state, args, nargs, 2) < 0 ? NULL : receive(state, args[0], args[1] == Py_True ? AHEAD : 0);
}

/* In the child of a fork: the gate may be held by a thread that is not here, the keys are the parent's, and the thread
   that is here is the main one. */
static PyObject *renew(PyObject *module, PyObject *Py_UNUSED(nothing))
{
    Gate *gate = PyMem_RawCalloc(1, sizeof *gate);
    if (gate)
        gate->lock = PyThread_allocate_lock();
    if (!gate || !gate->lock) {
        PyMem_RawFree(gate);
        return PyErr_NoMemory();
    }
    State *state = PyModule_GetState(module);
    state->gate = gate;
    state->keys_left = 0;
    state->values[MAIN_THREAD] = (Py_ssize_t)PyThread_get_thread_ident(); /* unless it is still to be found */
    Py_RETURN_NONE;
}
