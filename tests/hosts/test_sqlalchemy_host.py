"""SQLAlchemy's asyncio engine on aiosqlite: greenlets and a driver's threads on our loop.

Run by pytest on asyncio and on aioxide, in this process.
"""

import asyncio

import pytest
from loopback import on_loop
from sqlalchemy import String, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


@on_loop
async def test_sqlalchemy_with_aiosqlite(loop, tmp_path):
    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(50), unique=True)

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/users.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with sessions.begin() as session:
        session.add_all([User(name=f"user {number}") for number in range(100)])

    async def read(number):
        async with sessions() as session:
            query = select(User).where(User.name == f"user {number}")
            return (await session.scalars(query)).one().id

    ids = await asyncio.gather(*(read(number) for number in range(20)))
    assert len(set(ids)) == 20
    with pytest.raises(IntegrityError):
        async with sessions.begin() as session:
            session.add(User(name="user 1"))
    async with sessions() as session:
        result = await session.stream(select(User.name).order_by(User.id))
        assert [name async for (name,) in result] == [f"user {number}" for number in range(100)]
    await engine.dispose()
