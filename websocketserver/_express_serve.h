/* Serving, part of _express.c: what handler.py does with messages; and a pool's turns in one call: what pool.py,
   pooled.py, handler.py and attendance.py do for a connection that has sent some. Where there is more than those, where
   a hook has failed, or where anything else is not as usual, Python goes on with the turn, which has begun:
   worker.tenant says whose it is. */

/* Whether somebody has gathered something that leaves through this connection, or for others with what it sends. */
static int has_gathered(const State *state, PyObject *connection)
{
    PyObject *gathered = GET(OUTPUT, gathered, GET(CONNECTION, _output, connection));
    PyObject *guests = GET(CONNECTION, _guests, connection);
    return !(gathered && PyByteArray_CheckExact(gathered) && !PyByteArray_GET_SIZE(gathered) && guests &&
             PyDict_CheckExact(guests) && !PyDict_GET_SIZE(guests));
}

/* Whether a connection is open both ways, and asks for nothing but what receive() sees to. */
static int is_open(const State *state, PyObject *connection)
{
    if (!state->next_message || !is_plain(state, CONNECTION, connection))
        return 0;
    PyObject *output = GET(CONNECTION, _output, connection), *receiver = GET(CONNECTION, _receiver, connection);
    if (!is_plain(state, OUTPUT, output) || !is_plain(state, RECEIVER, receiver))
        return 0;
    PyObject *broken = GET(OUTPUT, broken, output);
    return broken && PyUnicode_CheckExact(broken) && !PyUnicode_GET_LENGTH(broken) &&
           (!IS(CONNECTION, _gathering, connection, Py_None) || !has_gathered(state, connection));
}

/* As events(), gather what the thread sends if the next message is here: 1 if it is, 0 if not, -1 with an exception. */
static int gather_if_more(const State *state, PyObject *connection, PyObject *thread)
{
    Py_ssize_t more = IS(CONNECTION, _sent, connection, Py_None) ? PyObject_Size(GET(CONNECTION, _inbox, connection)) : 0;
    put(state, connection, CONNECTION_gathering, Py_NewRef(more > 0 ? thread : Py_None));
    if (more > 0 && PyDict_SetItem(state->gatherers, thread, connection) < 0)
        return -1;
    return more < 0 ? -1 : more > 0;
}

/* See off what a hook has gathered for others, or others for its connection. */
static int stop_gathering(const State *state, PyObject *connection, PyObject *thread)
{
    put(state, connection, CONNECTION_gathering, Py_NewRef(thread));
    PyObject *result = PyObject_CallMethodOneArg(connection, state->names[NAME__stop_gathering], state->never);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Return what on_message is called with: text as str, also where it came while another thread asked for bytes. */
static PyObject *read_message(PyObject *message)
{
    PyObject *data = PyTuple_GET_ITEM(message, 0);
    if (PyTuple_GET_ITEM(message, 1) == Py_True && PyBytes_CheckExact(data))
        return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), NULL);
    return Py_NewRef(data);
}

/* Call the hook for an event, if it is none for a message by way of Python; -1 with an exception. */
static int call_hook(const State *state, PyObject *handler, PyObject *event)
{
    int simple = (PyObject *)Py_TYPE(event) == state->message_type;
    PyObject *args[] = {handler, simple ? read_message(event) : Py_NewRef(event)}, *result = NULL;
    if (args[1])
        result = PyObject_VectorcallMethod(state->names[simple ? NAME_on_message : NAME__handle_event], args, 2, NULL);
    Py_XDECREF(args[1]);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Receive an event, maybe waiting for it, and call the hook for it: 1 if that is done, 0 where Python goes on, -1 with
   an exception. */
static int handle_one(const State *state, PyObject *handler, PyObject *connection, PyObject *thread, int waits)
{
    PyObject *event = is_open(state, connection) ? receive(state, connection, waits | AHEAD) : Py_NewRef(Py_None);
    if (!event || event == Py_None) {
        Py_XDECREF(event);
        return event ? 0 : -1;
    }
    int more = gather_if_more(state, connection, thread);
    int failed = more < 0 || call_hook(state, handler, event) < 0;
    Py_DECREF(event);
    if (failed)
        return -1;
    return !more && has_gathered(state, connection) && stop_gathering(state, connection, thread) < 0 ? -1 : 1;
}

static PyObject *handle_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    if (check_arguments(state, args, nargs, 2) < 0)
        return NULL;
    PyObject *thread = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    int done = thread ? 1 : -1;
    while (done > 0)
        done = handle_one(state, args[1], args[0], thread, WAITS);
    Py_XDECREF(thread);
    return done < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- A pool's turns ---- */

/* Begin a turn: the monitor sees it from now on. */
static int begin_turn(const State *state, PyObject *worker, PyObject *tenant)
{
    put(state, worker, WORKERtenant, Py_NewRef(tenant));
    return count(state, worker, WORKERturns, 1);
}

/* End a turn, with the pool's lock only if somebody may be looking at it: while the GIL is ours, nobody begins to. */
static int end_turn(const State *state, PyObject *pool, PyObject *worker, PyObject *tenant)
{
    if (!IS(CLIENT, gone, tenant, Py_True))
        put(state, GET(CLIENT, _accepted, tenant), ACCEPTEDthread, Py_NewRef(Py_None));
    if (IS(WORKER, passing, worker, Py_False) && IS(WORKER, passed, worker, Py_False)) {
        put(state, worker, WORKERtenant, Py_NewRef(Py_None));
        return 1;
    }
    PyObject *result = PyObject_CallMethodOneArg(pool, state->names[NAME__end_turn], worker);
    Py_XDECREF(result);
    return result ? 1 : -1;
}

/* Take no more messages, maybe with an exception, which is kept; -1 with one. */
static int leave_gathering(const State *state, PyObject *connection, PyObject *thread)
{
    PyObject *kind, *error, *traceback, *left = NULL;
    PyErr_Fetch(&kind, &error, &traceback);
    if (PyDict_GetItemWithError(state->gatherers, thread) == connection)
        left = PyObject_CallMethodOneArg(connection, state->names[NAME__leave_gathering], thread);
    Py_XDECREF(left);
    if (!kind)
        return PyErr_Occurred() ? -1 : 0;
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(connection);
    PyErr_Restore(kind, error, traceback);
    return -1;
}

/* Handle what is here of a connection: 1 if that is done, 0 where Python goes on, -1 with an exception. */
static int handle_ready(const State *state, PyObject *handler, PyObject *connection, PyObject *thread)
{
    int done;
    do
        done = handle_one(state, handler, connection, thread, 0);
    while (done > 0 && PyObject_IsTrue(GET(CONNECTION, _inbox, connection)));
    return leave_gathering(state, connection, thread) < 0 ? -1 : done;
}

/* Whether there is something left that polling does not show. */
static int has_more(const State *state, PyObject *connection)
{
    return PyObject_Size(GET(CONNECTION, _inbox, connection)) != 0 ||
           !IS(CONNECTION, _unparsed, connection, Py_False) || !IS(CONNECTION, _input_over, connection, Py_False);
}

/* Serve a tenant: 1 if that is done, 0 where Python is to do it, -1 with an exception. */
static int serve(const State *state, PyObject *pool, PyObject *worker, PyObject *tenant)
{
    PyObject *handler = GET(CLIENT, _simple, tenant), *connection = GET(CLIENT, _connection, tenant);
    if (handler == Py_None || !IS(CLIENT, slow, tenant, Py_False) || !is_open(state, connection) ||
        !is_plain(state, ACCEPTED, GET(CLIENT, _accepted, tenant)))
        return 0;
    if (begin_turn(state, worker, tenant) < 0)
        return -1;
    if (!IS(POOL, _awake, pool, Py_True)) /* looked at behind the tenant: the monitor does it the other way round */
        return 0;
    Py_INCREF(handler);
    Py_INCREF(connection);
    put(state, GET(CLIENT, _accepted, tenant), ACCEPTEDthread, Py_NewRef(GET(WORKER, thread, worker)));
    int done = handle_ready(state, handler, connection, GET(WORKER, thread, worker));
    if (done == 1 && has_more(state, connection))
        done = 0;
    Py_DECREF(handler);
    Py_DECREF(connection);
    return done == 1 ? end_turn(state, pool, worker, tenant) : done;
}

#define MOST_EVENTS 256 /* that one call takes from a poller: those that are left come with the next */

/* Return which descriptors of an epoll are ready, having waited so many milliseconds, or less if disturbed. */
static PyObject *poll_events(int epoll, int milliseconds)
{
#ifdef __linux__
    struct epoll_event events[MOST_EVENTS];
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = epoll_wait(epoll, events, MOST_EVENTS, milliseconds);
    Py_END_ALLOW_THREADS
    if (count < 0 && errno != EINTR)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *ready = PyList_New(Py_MAX(count, 0));
    for (int i = 0; ready && i < count; i++) {
        PyObject *number = PyLong_FromLong(events[i].data.fd);
        if (number)
            PyList_SET_ITEM(ready, i, number);
        else
            Py_CLEAR(ready);
    }
    return ready;
#else
    (void)epoll, (void)milliseconds;
    PyErr_SetString(PyExc_NotImplementedError, "this system has no epoll");
    return NULL;
#endif
}

static PyObject *poll_at_once(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "an epoll and seconds");
        return NULL;
    }
    int epoll = PyObject_AsFileDescriptor(args[0]);
    double milliseconds = args[1] == Py_None ? -1 : PyFloat_AsDouble(args[1]) * 1000;
    if (PyErr_Occurred())
        return NULL;
    int whole = milliseconds < 0 ? -1 : milliseconds < INT_MAX ? (int)milliseconds : INT_MAX;
    return poll_events(epoll, 0 < milliseconds && whole < milliseconds && whole < INT_MAX ? whole + 1 : whole);
}

static PyObject *serve_at_once(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    State *state = PyModule_GetState(module);
    if (find_all(state) < 0 || find_server(state) < 0)
        return NULL;
    if (nargs != 3 || !is_plain(state, POOL, args[0]) || !is_plain(state, WORKER, args[1])) {
        PyErr_SetString(PyExc_TypeError, "a Pool, a worker of it and those that are ready");
        return NULL;
    }
    Py_ssize_t size = 0;
    while (IS(WORKER, passed, args[1], Py_False) && (size = PyObject_Size(args[2])) > 0) {
        PyObject *tenant = call(state, args[2], NAME_popleft);
        if (!tenant || !is_plain(state, CLIENT, tenant))
            return tenant;
        int away = IS(CLIENT, away, tenant, Py_True) || IS(CLIENT, gone, tenant, Py_True);
        int done = away ? 1 : serve(state, args[0], args[1], tenant);
        if (done == 0)
            return tenant;
        Py_DECREF(tenant);
        if (done < 0)
            return NULL;
    }
    return size < 0 ? NULL : Py_NewRef(Py_None);
}
