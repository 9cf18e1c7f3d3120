/*
 * read_wire(): a batch of the wire form as Python records, for report and convert.
 */
#include "bindings/ext/core.h"

#include "bindings/ext/dict_emitter.h"
#include "profiles/formats/msgpack_reader.h"

static PyObject *raise(pom_status_t status) {
    return status == POM_ENOMEM ? PyErr_NoMemory()
                                : PyErr_Format(PyExc_ValueError, "not a batch of the wire form: %s",
                                               pom_status_text(status));
}

/* Takes the record. */
static void append(PyObject **records, PyObject *record) {
    if (record == NULL || PyList_Append(*records, record) < 0) {
        Py_CLEAR(*records);
    }
    Py_XDECREF(record);
}

/* The profiles that can be read; one that is damaged is passed over, as the reader does. The client
 * report comes last, in the form it has among JSON lines. */
static PyObject *read_profiles(pom_msgpack_reader_t *reader) {
    PyObject *records = PyList_New(0);
    pom_profile_t *profile = NULL;
    pom_status_t status;
    while (records != NULL &&
           (status = pom_msgpack_reader_next(reader, &profile)) != POM_ENOTFOUND) {
        if (status != POM_OK) {
            continue;
        }
        append(&records, pom_py_record(profile));
        pom_profile_unref(profile);
    }
    const pom_client_report_t *report = pom_msgpack_reader_report(reader);
    if (records != NULL && report != NULL) {
        const pom_msgpack_source_t *source = pom_msgpack_reader_source(reader);
        append(&records, pom_py_client_report(report, source->name, source->pid));
    }
    return records;
}

static PyObject *read_wire(PyObject *module, PyObject *data) {
    (void)module;
    Py_buffer bytes;
    if (PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *records = NULL;
    pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
    pom_status_t status = reader == NULL
                              ? POM_ENOMEM
                              : pom_msgpack_reader_begin(reader, bytes.buf, (size_t)bytes.len);
    records = status == POM_OK ? read_profiles(reader) : raise(status);
    pom_msgpack_reader_free(reader);
    PyBuffer_Release(&bytes);
    return records;
}

static PyMethodDef functions[] = {
    {"read_wire", read_wire, METH_O, "read_wire(batch): the records of one whole batch as dicts."},
    {NULL, NULL, 0, NULL}};

int pom_wire_init(PyObject *module) {
    return PyModule_AddFunctions(module, functions);
}
