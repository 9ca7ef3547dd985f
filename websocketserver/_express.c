/* The common case of receiving, of sending and of serving, each in one call: see express.py, whose functions these replace.

   What is read and written here are the slots of the Python classes, whose files say what they mean. Two rules
   hold it together. While the GIL is held, nobody is inside a state lock that looks free: looking is as good as
   taking it. The write lock, under which the GIL is given away, is taken, but never waited for. And whatever is not
   the common case is left to Python before anything was done, or with all of it noted where Python looks for it.
   So there is none of this where there is no GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif
#include <sys/socket.h>
#include <sys/types.h>

#include "protocol/_speedups_masking.h"
#include "_express_state.h"
#include "_express_receive.h"
#include "_express_mask.h"
#include "_express_send.h"
#include "_express_serve.h"

static int module_exec(PyObject *module)
{
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "what this module does rests on the GIL");
    return -1;
#else
    PyObject *renewed = renew(module, NULL);
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
    Py_VISIT(state->lock_type);
    Py_VISIT(state->socket_type);
    Py_VISIT(state->inbox_type);
    Py_VISIT(state->message_type);
    Py_VISIT(state->no_inbox);
    Py_VISIT(state->gatherers);
    Py_VISIT(state->never);
    Py_VISIT(state->dont_wait);
    Py_VISIT(state->os);
    Py_VISIT(state->new_key);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    EACH(state->owners, OWNERS, Py_CLEAR)
    EACH(state->names, NAME_COUNT, Py_CLEAR)
    EACH(state->numbers, NUMBER_COUNT, Py_CLEAR)
    Py_CLEAR(state->lock_type);
    Py_CLEAR(state->socket_type);
    Py_CLEAR(state->inbox_type);
    Py_CLEAR(state->message_type);
    Py_CLEAR(state->no_inbox);
    Py_CLEAR(state->gatherers);
    Py_CLEAR(state->never);
    Py_CLEAR(state->dont_wait);
    Py_CLEAR(state->os);
    Py_CLEAR(state->new_key);
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
    {"handle_at_once", (PyCFunction)(void (*)(void))handle_at_once, METH_FASTCALL,
     "Call on_message with what comes, as long as that is simple."},
    {"serve_at_once", (PyCFunction)(void (*)(void))serve_at_once, METH_FASTCALL,
     "Serve those that are ready as far as that is simple; return the first for whom it is not."},
    {"ping_at_once", (PyCFunction)(void (*)(void))ping_at_once, METH_FASTCALL,
     "Send a Ping where a pool has the connection and that is simple, else return False; None where it was begun."},
    {"poll_at_once", (PyCFunction)(void (*)(void))poll_at_once, METH_FASTCALL,
     "Return the descriptors of an epoll that are ready."},
    {"share_at_once", (PyCFunction)(void (*)(void))share_at_once, METH_FASTCALL,
     "Send a frame that many are sent where that is simple, else return False; None where it was begun."},
    {"flush_at_once", (PyCFunction)(void (*)(void))flush_at_once, METH_FASTCALL,
     "Send what is gathered where that is simple; return whether all of it has left."},
    {"renew", renew, METH_NOARGS, "For the child of a fork."},
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
    .m_doc = "The common case of receiving, of sending and of serving, each in one call.",
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
