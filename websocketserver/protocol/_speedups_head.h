/* Heads that have come in one piece (wholehead.py). Part of _speedups.c. */

static int is_token_byte(unsigned char c) /* RFC 9110, 5.6.2 */
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static int is_blank(unsigned char c)
{
    return c == ' ' || c == '\t';
}

/* Return where the line ends that begins here: at its CR. NULL for a control character other than HTAB before that,
   such as the NUL that is behind all bytes objects. */
static const unsigned char *find_line_end(const unsigned char *at)
{
    while (*at == '\t' || (*at >= ' ' && *at != 0x7f))
        at++;
    return at[0] == '\r' && at[1] == '\n' ? at : NULL;
}

static PyObject *as_str(const unsigned char *from, const unsigned char *to)
{
    return PyUnicode_DecodeLatin1((const char *)from, to - from, NULL);
}

/* Return (method, target, version, line) of a line without its CRLF; None if it is not one of HTTP/1. */
static PyObject *split_request_line(const unsigned char *from, const unsigned char *to)
{
    const unsigned char *method = from, *target, *version;
    while (from < to && is_token_byte(*from))
        from++;
    if (from == method || from == to || *from != ' ')
        Py_RETURN_NONE;
    const unsigned char *method_end = from++;
    for (target = from; from < to && *from > ' ' && *from < 0x7f; from++)
        ;
    if (from == target || from == to || *from != ' ')
        Py_RETURN_NONE;
    version = from + 1;
    if (to - version != 8 || memcmp(version, "HTTP/1.", 7) || version[7] < '0' || version[7] > '9')
        Py_RETURN_NONE;
    return Py_BuildValue("(NNNN)", as_str(method, method_end), as_str(target, from), as_str(version, to),
                         as_str(method, to));
}

static int is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

/* Return (version, status, reason) of a line without its CRLF; None if it does not begin a final response. */
static PyObject *split_status_line(const unsigned char *from, const unsigned char *to)
{
    if (to - from < 12 || memcmp(from, "HTTP/", 5) || !is_digit(from[5]) || from[6] != '.' || !is_digit(from[7]) ||
        from[8] != ' ' || !is_digit(from[9]) || !is_digit(from[10]) || !is_digit(from[11]))
        Py_RETURN_NONE;
    const unsigned char *digits = from + 9, *reason = from + 12;
    int status = (digits[0] - '0') * 100 + (digits[1] - '0') * 10 + digits[2] - '0';
    if ((status < 200 && status != 101) || (reason < to && *reason++ != ' '))
        Py_RETURN_NONE;
    return Py_BuildValue("(NiN)", as_str(from, from + 8), status, as_str(reason, to));
}

/* Return (name, name in lower case) as in names, or else anew; NULL without an exception if it is not a token. */
static PyObject *find_name(const unsigned char *from, const unsigned char *to, PyObject *names)
{
    PyObject *name = as_str(from, to);
    if (!name)
        return NULL;
    PyObject *both = PyDict_GetItemWithError(names, name);
    Py_XINCREF(both);
    if (!both && !PyErr_Occurred()) {
        const unsigned char *at = from;
        while (at < to && is_token_byte(*at))
            at++;
        if (at == to && from < to) {
            PyObject *lower = PyObject_CallMethod(name, "lower", NULL);
            both = lower ? PyTuple_Pack(2, name, lower) : NULL;
            Py_XDECREF(lower);
        }
    }
    Py_DECREF(name);
    return both;
}

/* Add a header to both; return -1 with an exception. */
static int add_header(PyObject *both, PyObject *value, PyObject *pairs, PyObject *fields)
{
    PyObject *pair = PyTuple_Pack(2, PyTuple_GET_ITEM(both, 0), value);
    int failed = pair ? PyList_Append(pairs, pair) : -1;
    Py_XDECREF(pair);
    if (failed)
        return -1;
    PyObject *values = PyDict_GetItemWithError(fields, PyTuple_GET_ITEM(both, 1));
    if (values)
        return PyList_Append(values, value);
    if (PyErr_Occurred() || !(values = PyList_New(1)))
        return -1;
    PyList_SET_ITEM(values, 0, Py_NewRef(value));
    failed = PyDict_SetItem(fields, PyTuple_GET_ITEM(both, 1), values);
    Py_DECREF(values);
    return failed;
}

/* Take in a header line without its CRLF: 1, 0 if it is wrong, -1 with an exception. */
static int split_header(const unsigned char *from, const unsigned char *to, PyObject *names, PyObject *pairs,
                        PyObject *fields)
{
    const unsigned char *colon = memchr(from, ':', to - from);
    if (!colon)
        return 0;
    PyObject *both = find_name(from, colon, names);
    if (!both)
        return PyErr_Occurred() ? -1 : 0;
    for (from = colon + 1; from < to && is_blank(*from); from++)
        ;
    while (to > from && is_blank(to[-1]))
        to--;
    PyObject *value = as_str(from, to);
    int failed = value ? add_header(both, value, pairs, fields) : -1;
    Py_XDECREF(value);
    Py_DECREF(both);
    return failed ? -1 : 1;
}

/* Take in the header lines up to the empty one: as split_header; *at is then behind that. */
static int split_headers(const unsigned char **at, Py_ssize_t most, PyObject *names, PyObject *pairs, PyObject *fields)
{
    for (Py_ssize_t count = 0;; count++) {
        const unsigned char *end = find_line_end(*at);
        if (!end)
            return 0;
        if (end == *at) {
            *at += 2;
            return count > 0;
        }
        int taken = count < most ? split_header(*at, end, names, pairs, fields) : 0;
        if (taken <= 0)
            return taken;
        *at = end + 2;
    }
}

typedef PyObject *(*SplitLine)(const unsigned char *from, const unsigned char *to);

static PyObject *split_head(PyObject *const *args, Py_ssize_t nargs, SplitLine split_line)
{
    if (nargs != 4 || !PyBytes_CheckExact(args[0]) || !PyDict_CheckExact(args[3])) {
        PyErr_SetString(PyExc_TypeError, "bytes, two ints and a dict are wanted");
        return NULL;
    }
    Py_ssize_t room = PyLong_AsSsize_t(args[1]), most = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(args[0]), *at = data;
    const unsigned char *end = find_line_end(at);
    PyObject *start = end ? split_line(at, end) : Py_NewRef(Py_None);
    PyObject *pairs = PyList_New(0), *fields = PyDict_New(), *result = NULL;
    if (start && pairs && fields) {
        at = end ? end + 2 : at;
        int taken = start == Py_None ? 0 : split_headers(&at, most, args[3], pairs, fields);
        if (taken > 0 && at - data <= room)
            result = Py_BuildValue("(OOOn)", start, pairs, fields, (Py_ssize_t)(at - data));
        else if (taken >= 0)
            result = Py_NewRef(Py_None);
    }
    Py_XDECREF(start);
    Py_XDECREF(pairs);
    Py_XDECREF(fields);
    return result;
}

static PyObject *split_request(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    return split_head(args, nargs, split_request_line);
}

static PyObject *split_response(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    return split_head(args, nargs, split_status_line);
}
