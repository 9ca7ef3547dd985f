/* Sending in one call, part of _express.c: what sending.py, sharing.py and output.py do in several. */

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

static PyObject *make_one(State *state, PyObject *new_key, int opcode, const char *payload, Py_ssize_t size)
{
    return new_key == Py_None ? make_plain_frame(opcode, payload, size)
                              : make_masked_frame(state, opcode, payload, size);
}

/* Whether a socket takes something now: to mask much for one that does not would be in vain. */
static int has_room(int fd)
{
    struct pollfd writable = {fd, POLLOUT, 0};
    return poll(&writable, 1, 0) > 0;
}

/* Return one message as a frame; NULL, maybe without an exception, where that is left to Python. */
static PyObject *make_frame(State *state, PyObject *sender, PyObject *message, int fd)
{
    int text = PyUnicode_CheckExact(message);
    PyObject *new_key = GET(SENDER, _new_key, sender), *data, *frame = NULL;
    if (fd < 0 || !IS(SENDER, plain, sender, Py_True) || !(text || PyBytes_CheckExact(message)) ||
        !(new_key == Py_None || new_key == state->new_key))
        return NULL;
    int opcode = state->values[text ? TEXT : BINARY];
    Py_ssize_t most = new_key == Py_None ? state->values[JOINED] : MOST_MASKED, size = PyObject_Size(message);
    if (size > most || (size > state->values[JOINED] && !has_room(fd)))
        return NULL;
    if (text && PyUnicode_IS_COMPACT_ASCII(message)) {
        const char *characters = PyUnicode_DATA(message);
        return make_one(state, new_key, opcode, characters, PyUnicode_GET_LENGTH(message));
    }
    data = text ? PyUnicode_AsUTF8String(message) : Py_NewRef(message);
    if (!data)
        PyErr_Clear(); /* a lone surrogate: Python says so */
    else if (PyBytes_GET_SIZE(data) <= most)
        frame = make_one(state, new_key, opcode, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data));
    Py_XDECREF(data);
    return frame;
}

/* Whether it is this thread that gathers what it sends; -1 with an exception. */
static int gathers(const State *state, PyObject *self)
{
    PyObject *gathering = GET(CONNECTION, _gathering, self);
    unsigned long thread = gathering == Py_None ? 0 : PyLong_AsUnsignedLong(gathering);
    if (thread == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    return gathering != Py_None && thread == PyThread_get_thread_ident();
}

/* Before this thread gathers something, have the timer see to it; -1 with an exception. This lets others in: what was
   looked at before may be no longer so. */
static int prepare_gathering(const State *state, PyObject *self)
{
    int ours = gathers(state, self);
    PyObject *output = GET(CONNECTION, _output, self);
    if (ours <= 0 || !is_plain(state, OUTPUT, output) || PyObject_IsTrue(GET(OUTPUT, gathered, output)))
        return ours < 0 ? -1 : 0;
    return run(state, self, NAME__begin_gathering);
}

/* Add a frame to what this thread gathers: True, or False where Python is to do it. */
static PyObject *gather(const State *state, PyObject *self, PyObject *gathered, PyObject *frame)
{
    int ours = gathers(state, self);
    if (ours <= 0 || PyByteArray_GET_SIZE(gathered) + PyBytes_GET_SIZE(frame) >= state->values[GATHERED])
        return ours < 0 ? NULL : Py_NewRef(Py_False);
    PyObject *same = PySequence_InPlaceConcat(gathered, frame);
    Py_XDECREF(same);
    return same && count(state, self, CONNECTION_messages_sent, 1) == 0 ? Py_NewRef(Py_True) : NULL;
}

/* Send: how many bytes were taken, 0 where that was not to be, -1 with the error in errno: a socket tells of it once. */
static Py_ssize_t send_bytes(int fd, const char *bytes, Py_ssize_t size, int lets_others)
{
    ssize_t taken;
    if (lets_others) {
        Py_BEGIN_ALLOW_THREADS
        taken = send(fd, bytes, size, MSG_DONTWAIT);
        Py_END_ALLOW_THREADS
    }
    else
        taken = send(fd, bytes, size, MSG_DONTWAIT);
    return taken < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : taken;
}

/* Note why nothing can be sent any more: Python, which goes on, finds that and says so; -1 with an exception. */
static int note_broken(const State *state, PyObject *output, int error)
{
    PyObject *why = PyUnicode_FromString(strerror(error));
    if (why)
        put(state, output, OUTPUTbroken, why);
    return why ? 0 : -1;
}

/* Leave the write lock and look again at what was queued meanwhile; -1 with an exception. */
static int unlock(const State *state, PyObject *self, PyObject *output)
{
    PyObject *lock = GET(OUTPUT, lock, output);
    PyObject *left = state->release && is_lock(state, lock) ? state->release(lock, NULL) : call(state, lock, NAME_release);
    Py_XDECREF(left);
    if (!left)
        return -1;
    if (is_empty_list(GET(OUTPUT, queued, output)) && is_empty_list(GET(OUTPUT, rest, output)) &&
        IS(CONNECTION, _over, self, Py_False))
        return 0;
    return run(state, self, NAME__flush);
}

enum { NOTHING, PART, ALL, NEVER };

/* Note what was taken of what was gathered, or of a frame behind that, and keep the rest; -1 with an exception. */
static int note_taken(const State *state, PyObject *self, PyObject *output, const char *rest, Py_ssize_t taken,
                      Py_ssize_t left, int counts)
{
    if (count(state, output, OUTPUTbytes_sent, taken) < 0 ||
        ((left ? PART : ALL) >= counts && count(state, self, CONNECTION_messages_sent, 1) < 0))
        return -1;
    PyObject *kept = left ? PyBytes_FromStringAndSize(rest, left) : NULL, *empty = NULL;
    int failed = left && (!kept || PyList_Append(GET(OUTPUT, rest, output), kept) < 0);
    Py_XDECREF(kept);
    if (!failed && PyByteArray_GET_SIZE(GET(OUTPUT, gathered, output)) &&
        (empty = PyByteArray_FromStringAndSize(NULL, 0)))
        put(state, output, OUTPUTgathered, empty);
    return failed || PyErr_Occurred() ? -1 : 0;
}

/* With an exception, cut the connection: nobody knows what has left, so nothing may follow it. */
static int sending_failed(const State *state, PyObject *self, PyObject *output, int locked)
{
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyObject *done = PyObject_CallMethod(self, "_cut", "s", "interrupted while sending");
    if (!done || (locked && unlock(state, self, output) < 0))
        PyErr_WriteUnraisable(self);
    Py_XDECREF(done);
    PyErr_Restore(kind, error, traceback);
    return -1;
}

/* Take the write lock if nobody has it; -1 with an exception. */
static int lock(const State *state, PyObject *output)
{
    PyObject *lock = GET(OUTPUT, lock, output);
    PyObject *ours = state->acquire
                         ? ((PyCFunctionWithKeywords)(void (*)(void))state->acquire)(lock, state->dont_wait, NULL)
                         : PyObject_CallMethodOneArg(lock, state->names[NAME_acquire], Py_False);
    Py_XDECREF(ours);
    return ours ? ours == Py_True : -1;
}

/* Return what was gathered and a frame behind it. */
static PyObject *join(PyObject *gathered, PyObject *frame)
{
    Py_ssize_t size = PyByteArray_GET_SIZE(gathered);
    PyObject *joined = PyBytes_FromStringAndSize(NULL, size + PyBytes_GET_SIZE(frame));
    if (joined) {
        memcpy(PyBytes_AS_STRING(joined), PyByteArray_AS_STRING(gathered), size);
        memcpy(PyBytes_AS_STRING(joined) + size, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame));
    }
    return joined;
}

/* Whether to keep the GIL while sending. A pool's leader does, which has others to serve, and nobody to wait for;
   elsewhere, who wakes up the peer may lose the processor to it, so only where no other thread waits for messages. Not
   where there is much to copy. */
static int keeps_gil(const State *state, PyObject *self, Py_ssize_t size)
{
    return size <= state->values[JOINED] &&
           (!IS(CONNECTION, _announce, self, Py_None) || !atomic_load(&state->gate->reading));
}

/* Send what was gathered, or a frame behind that, the write lock looking free: how much of it was taken, -1 with an
   exception. ``counts`` is how much of it has to be for a message to count as sent. */
static int send_out(const State *state, PyObject *self, PyObject *output, int fd, PyObject *source, int counts)
{
    const char *bytes = PyBytes_CheckExact(source) ? PyBytes_AS_STRING(source) : PyByteArray_AS_STRING(source);
    Py_ssize_t size = Py_SIZE(source);
    /* Where the GIL is kept, looking is as good as taking. Where not: up to CPython 3.12 a lock that was just handed to
       a waiter does not look locked, and to wait for it here would make all that was looked at before untrue. */
    int keeps = keeps_gil(state, self, size), ours = keeps ? 1 : lock(state, output);
    if (ours <= 0)
        return ours < 0 ? -1 : NOTHING;
    Py_INCREF(source);
    Py_ssize_t taken = send_bytes(fd, bytes, size, !keeps);
    int failed = taken < 0 ? note_broken(state, output, errno) < 0
                           : taken && note_taken(state, self, output, bytes + taken, taken, size - taken, counts) < 0;
    Py_DECREF(source);
    if (failed)
        return sending_failed(state, self, output, !keeps);
    if (!keeps && unlock(state, self, output) < 0)
        return -1;
    return taken <= 0 ? NOTHING : taken < size ? PART : ALL;
}

/* The answers of Python: True, False where all is left to it, None where part has left. */
static PyObject *answer(int sent)
{
    if (sent < 0)
        return NULL;
    return sent == PART ? Py_NewRef(Py_None) : PyBool_FromLong(sent == ALL);
}

/* The descriptor where nobody and nothing is in the way of what a connection sends, -1 where that is not so. */
static int free_output(const State *state, PyObject *self, PyObject *output, PyObject *sender)
{
    PyObject *broken = GET(OUTPUT, broken, output);
    int fd = descriptor(state, self), free = is_free(state, GET(OUTPUT, lock, output));
    int plain = free > 0 && fd >= 0 && IS(CONNECTION, _sent, self, Py_None) &&
                IS(CONNECTION, _input_over, self, Py_False) && IS(CONNECTION, _speaker, self, Py_None) &&
                IS(SENDER, close_sent, sender, Py_False) && is_empty_list(GET(OUTPUT, queued, output)) &&
                is_empty_list(GET(OUTPUT, rest, output)) &&
                PyByteArray_CheckExact(GET(OUTPUT, gathered, output)) && PyObject_Not(broken);
    return plain && !PyErr_Occurred() ? fd : -1;
}

/* What a function returns that has left all to Python, or met an exception. */
static PyObject *nothing_done(void)
{
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
}

/* Return the sender of an output where neither is more than its class says. */
static PyObject *plain_sender(const State *state, PyObject *output)
{
    PyObject *sender = is_plain(state, OUTPUT, output) ? GET(OUTPUT, sender, output) : NULL;
    return is_plain(state, SENDER, sender) ? sender : NULL;
}

static PyObject *send_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    if (check_arguments(state, args, nargs, 2) < 0 || prepare_gathering(state, args[0]) < 0)
        return NULL;
    PyObject *self = args[0], *output = GET(CONNECTION, _output, self), *sender = plain_sender(state, output);
    PyObject *frame = sender ? make_frame(state, sender, args[1], descriptor(state, self)) : NULL, *result = NULL;
    if (!frame)
        return nothing_done();
    PyObject *gathered = GET(OUTPUT, gathered, output);
    int fd = free_output(state, self, output, sender);
    if (fd < 0)
        result = nothing_done();
    else if (!IS(CONNECTION, _gathering, self, Py_None))
        result = gather(state, self, gathered, frame);
    else {
        PyObject *all = PyByteArray_GET_SIZE(gathered) ? join(gathered, frame) : Py_NewRef(frame);
        result = all ? answer(send_out(state, self, output, fd, all, ALL)) : NULL;
        Py_XDECREF(all);
    }
    Py_DECREF(frame);
    return result;
}

/* ---- What is sent to many ---- */

/* Add a frame to what is gathered for a guest: True, or False where it would be enough to leave. */
static PyObject *gather_for_guest(const State *state, PyObject *self, PyObject *output, PyObject *frame,
                                  PyObject *guests)
{
    PyObject *gathered = GET(OUTPUT, gathered, output);
    if (!PyDict_CheckExact(guests) || !is_plain(state, CONNECTION, self) || /* a hash of its own may let others in */
        PyByteArray_GET_SIZE(gathered) + PyBytes_GET_SIZE(frame) >= state->values[GATHERED])
        Py_RETURN_FALSE;
    if (PyDict_SetItem(guests, self, Py_None) < 0)
        return NULL;
    PyObject *same = PySequence_InPlaceConcat(gathered, frame);
    Py_XDECREF(same);
    return same && count(state, self, CONNECTION_messages_sent, 1) == 0 ? Py_NewRef(Py_True) : NULL;
}

/* Send a frame as those senders have it that neither encode, split nor mask. */
static PyObject *share_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    if (check_arguments(state, args, nargs, 3) < 0)
        return NULL;
    PyObject *self = args[0], *output = GET(CONNECTION, _output, self), *sender = plain_sender(state, output);
    if (!sender || !PyBytes_CheckExact(args[1]) || !IS(SENDER, plain, sender, Py_True) ||
        !IS(SENDER, _new_key, sender, Py_None))
        Py_RETURN_FALSE;
    int fd = free_output(state, self, output, sender);
    if (fd >= 0 && args[2] != Py_None)
        return gather_for_guest(state, self, output, args[1], args[2]);
    if (fd >= 0 && IS(CONNECTION, _gathering, self, Py_None) && !PyByteArray_GET_SIZE(GET(OUTPUT, gathered, output)))
        return answer(send_out(state, self, output, fd, args[1], PART));
    return nothing_done();
}

/* Send what is gathered: True where all of it was taken. What was not is still gathered, or pending. */
static PyObject *flush_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    if (check_arguments(state, args, nargs, 1) < 0)
        return NULL;
    PyObject *self = args[0], *output = GET(CONNECTION, _output, self), *sender = plain_sender(state, output);
    int fd = sender ? free_output(state, self, output, sender) : -1;
    if (fd < 0 || !PyByteArray_GET_SIZE(GET(OUTPUT, gathered, output)))
        return nothing_done();
    int sent = send_out(state, self, output, fd, GET(OUTPUT, gathered, output), NEVER);
    return sent < 0 ? NULL : PyBool_FromLong(sent == ALL);
}

/* ---- Pings ---- */

#define PING 9 /* 5.5.2 */

static PyObject *ping_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    if (check_arguments(state, args, nargs, 2) < 0)
        return NULL;
    PyObject *self = args[0], *output = GET(CONNECTION, _output, self), *sender = plain_sender(state, output);
    if (!sender || !IS(SENDER, _new_key, sender, Py_None) || IS(CONNECTION, _announce, self, Py_None) ||
        !PyBytes_CheckExact(args[1]))
        Py_RETURN_FALSE;
    int fd = free_output(state, self, output, sender);
    if (fd < 0 || PyByteArray_GET_SIZE(GET(OUTPUT, gathered, output)))
        return nothing_done();
    PyObject *frame = make_plain_frame(PING, PyBytes_AS_STRING(args[1]), PyBytes_GET_SIZE(args[1]));
    PyObject *result = frame ? answer(send_out(state, self, output, fd, frame, NEVER)) : NULL;
    Py_XDECREF(frame);
    return result;
}
