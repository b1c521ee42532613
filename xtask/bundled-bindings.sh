#!/bin/sh
# Called by cargo in the place of rustc, where a Postgres comes without headers: pgrx-pg-sys then takes the bindings that it
# brings along for its own documentation. Only that crate may see the mark: to others it means a compiler of another channel.
case " $* " in
*" --crate-name pgrx_pg_sys "*) exec "$@" --cfg docsrs ;;
esac
exec "$@"
