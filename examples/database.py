"""A database behind a repository: SQLAlchemy on SQLite through aiosqlite, in few statements.

For a newcomer to read and run: python examples/database.py
The database is a file in a temporary folder; the network is never touched.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import aioxide as asyncio


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    points: Mapped[int] = mapped_column(default=0)


class NewUser(TypedDict):
    name: str
    points: int


class Points(TypedDict):
    """A change of one row, found by its primary key."""

    id: int
    points: int


class Database:
    """The engine and its sessions. Make it inside the running loop, whose connections it keeps."""

    def __init__(self, path: Path) -> None:
        self.engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=3)
        self.statements = 0
        event.listen(self.engine.sync_engine, "before_cursor_execute", self._count)
        # Objects stay readable after the commit; a lazy reload would need an await nobody wrote.
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    def _count(self, *_details: object) -> None:
        self.statements += 1

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Commits at the end; on any exception, a cancellation too, rolls back instead."""
        async with self.sessions.begin() as session:
            yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session for questions only: nothing is committed."""
        async with self.sessions() as session:
            yield session

    async def __aenter__(self) -> "Database":
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        return self

    async def __aexit__(self, *exception_details: object) -> None:
        await self.engine.dispose()


class Users:
    """The repository: everything the program asks about users, and nothing about SQL leaks out."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def find(self, user_id: int) -> User | None:
        async with self.database.reading() as session:
            return await session.get(User, user_id)

    async def page(self, *, after: int = 0, limit: int = 100) -> Sequence[User]:
        """Ordered, so that pages neither overlap nor leave gaps."""
        query = sqlalchemy.select(User).where(User.id > after).order_by(User.id).limit(limit)
        async with self.database.reading() as session:
            return (await session.scalars(query)).all()

    async def add(self, new: NewUser) -> User:
        async with self.database.transaction() as session:
            user = User(**new)
            session.add(user)
            await session.flush()
            return user

    async def rename(self, user_id: int, name: str) -> User | None:
        """None when there is no such user: one() would raise for something so ordinary."""
        change = sqlalchemy.update(User).where(User.id == user_id).values(name=name).returning(User)
        async with self.database.transaction() as session:
            return (await session.scalars(change)).one_or_none()

    async def remove(self, user_id: int) -> bool:
        removal = sqlalchemy.delete(User).where(User.id == user_id)
        async with self.database.transaction() as session:
            return (await session.execute(removal)).rowcount > 0

    async def add_many(self, users: Sequence[NewUser]) -> None:
        """All in one statement; adding objects to the session would send one for each."""
        async with self.database.transaction() as session:
            await session.execute(sqlalchemy.insert(User), users)

    async def set_points(self, points: Sequence[Points]) -> None:
        """One statement too: SQLAlchemy finds the primary key in each row."""
        async with self.database.transaction() as session:
            await session.execute(sqlalchemy.update(User), points)


async def one_at_a_time(users: Users) -> None:
    ada = await users.add({"name": "Ada", "points": 3})
    found = await users.find(ada.id)
    print(f"found: {found and found.name}; nobody has the number 99: {await users.find(99)}")
    renamed = await users.rename(ada.id, "Ada Lovelace")
    print(f"renamed: {renamed and renamed.name}; renaming nobody: {await users.rename(99, 'x')}")
    print(f"removed: {await users.remove(ada.id)}; removed again: {await users.remove(ada.id)}")


async def many_at_once(users: Users) -> None:
    count, before = 1000, users.database.statements
    await users.add_many([{"name": f"user {number}", "points": 0} for number in range(count)])
    print(f"{count} users added in {users.database.statements - before} statement")
    everybody, before = await users.page(limit=count), users.database.statements
    await users.set_points([{"id": user.id, "points": 7} for user in everybody])
    print(f"{count} users updated in {users.database.statements - before} statement")
    last = (await users.page(after=everybody[-2].id))[0]
    print(f"the last of them: {last.name}, {last.points} points")


async def all_or_nothing(users: Users) -> None:
    """The second insert fails, so the first never happened."""
    before = len(await users.page(limit=5000))
    try:
        async with users.database.transaction() as session:
            session.add(User(name="Grace"))
            await session.flush()
            session.add(User(name="user 1"))
    except sqlalchemy.exc.IntegrityError:
        print(f"the name is taken; users added: {len(await users.page(limit=5000)) - before}")


async def main() -> None:
    with TemporaryDirectory() as folder:
        async with Database(Path(folder, "users.sqlite")) as database:
            for step in (one_at_a_time, many_at_once, all_or_nothing):
                print(f"-- {step.__name__.replace('_', ' ')}")
                await step(Users(database))


if __name__ == "__main__":
    asyncio.run(main())
