package spool

const errShort = errorTooManyOpenFiles
