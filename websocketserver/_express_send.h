/* Sending in one call, part of _express.c: what connection.py and output.py do in several. */

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

/* Send a frame: how many bytes were taken, 0 also for errors, which come again. */
static Py_ssize_t send_bytes(int fd, PyObject *frame, int lets_others)
{
    ssize_t size;
    if (lets_others) {
        Py_BEGIN_ALLOW_THREADS
        size = send(fd, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), MSG_DONTWAIT);
        Py_END_ALLOW_THREADS
    }
    else
        size = send(fd, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), MSG_DONTWAIT);
    return size < 0 ? 0 : size;
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

/* Note what was taken of a frame, and keep the rest; -1 with an exception. */
static int note_taken(const State *state, PyObject *self, PyObject *output, PyObject *frame, Py_ssize_t taken)
{
    Py_ssize_t left = PyBytes_GET_SIZE(frame) - taken;
    if (!taken)
        return 0;
    if (count(state, output, OUTPUTbytes_sent, taken) < 0)
        return -1;
    if (!left)
        return count(state, self, CONNECTION_messages_sent, 1);
    PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(frame) + taken, left);
    int failed = rest ? PyList_Append(GET(OUTPUT, rest, output), rest) : -1;
    Py_XDECREF(rest);
    return failed;
}

/* With an exception, cut the connection: nobody knows what has left, so nothing may follow it. */
static PyObject *sending_failed(const State *state, PyObject *self, PyObject *output, int locked)
{
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyObject *done = PyObject_CallMethod(self, "_cut", "s", "interrupted while sending");
    if (!done || (locked && unlock(state, self, output) < 0))
        PyErr_WriteUnraisable(self);
    Py_XDECREF(done);
    PyErr_Restore(kind, error, traceback);
    return NULL;
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

/* Send a frame, the write lock looking free: True, False where it is left to Python, None where part of it was taken. */
static PyObject *send_frame(const State *state, PyObject *self, PyObject *output, int fd, PyObject *frame)
{
    /* A pool's leader has others to serve, and nobody to wait for: it keeps the GIL, so looking is as good as taking.
       Elsewhere it is given away; and up to CPython 3.12 a lock that was just handed to a waiter does not look locked:
       to wait for it here would make all that was looked at before untrue. */
    int keeps = !IS(CONNECTION, _announce, self, Py_None);
    int ours = keeps ? 1 : lock(state, output);
    if (ours <= 0)
        return ours < 0 ? NULL : Py_NewRef(Py_False);
    Py_ssize_t taken = send_bytes(fd, frame, !keeps);
    if (note_taken(state, self, output, frame, taken) < 0)
        return sending_failed(state, self, output, !keeps);
    if (!keeps && unlock(state, self, output) < 0)
        return NULL;
    return 0 < taken && taken < PyBytes_GET_SIZE(frame) ? Py_NewRef(Py_None) : PyBool_FromLong(taken > 0);
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
