//! A relation as an argument or a result of an SQL function: `regclass` there, an object identifier here.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, UnboxDatum};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, IntoDatum, pg_sys};

/// Unlike `PgRelation` it opens and locks nothing, so that checks come before locks.
#[derive(Debug, Clone, Copy)]
pub struct Regclass(pub pg_sys::Oid);

impl FromDatum for Regclass {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, typoid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: regclass is stored as an Oid; the caller vouches for the datum as for any FromDatum.
        unsafe { pg_sys::Oid::from_polymorphic_datum(datum, is_null, typoid) }.map(Regclass)
    }
}

impl IntoDatum for Regclass {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0.into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::REGCLASSOID
    }
}

// SAFETY: regclass and Oid have the same representation, so unboxing as an Oid reads exactly the argument's datum.
unsafe impl<'fcx> ArgAbi<'fcx> for Regclass {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches that the argument is a regclass that is not NULL.
        Regclass(unsafe { arg.unbox_arg_using_from_datum::<pg_sys::Oid>() }.unwrap_or(pg_sys::InvalidOid))
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> pgrx::nullable::Nullable<Self> {
        // SAFETY: as above, and NULL is kept apart.
        unsafe { arg.unbox_arg_using_from_datum::<pg_sys::Oid>() }.map(Regclass).into()
    }
}

// SAFETY: an Oid is held in the datum itself, so nothing is borrowed from it.
unsafe impl UnboxDatum for Regclass {
    type As<'src> = Self;

    unsafe fn unbox<'src>(datum: Datum<'src>) -> Self
    where
        Self: 'src,
    {
        // SAFETY: the caller vouches that the datum is a regclass, which has the representation of an Oid.
        Regclass(unsafe { <pg_sys::Oid as UnboxDatum>::unbox(datum) })
    }
}

// SAFETY: returns the datum that IntoDatum makes, which is an Oid by value.
unsafe impl BoxRet for Regclass {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: the Oid is passed by value and lives in the datum itself.
        unsafe { fcinfo.return_raw_datum(self.0.into()) }
    }
}

// SAFETY: the type is `regclass` in SQL in both directions.
unsafe impl SqlTranslatable for Regclass {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Regclass);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("regclass"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("regclass")));
}
