"""SQLAlchemy's asyncio extension: a database class, a repository, bulk operations.

Run by test_guide.py and test_guide_database.py under plain Python and under `python -m aioxide`;
both must print the same. The database is a file in a temporary folder, or the empty one that
AIOXIDE_GUIDE_DATABASE names. Asserts nothing itself.
"""

import asyncio
import os
import tempfile
from contextlib import asynccontextmanager

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    age: Mapped[int] = mapped_column(default=0)

    def __repr__(self) -> str:
        return f"User({self.id}, {self.name!r}, {self.age})"


class Database:
    def __init__(self, url: str) -> None:
        self.engine = create_async_engine(
            url, echo=False, pool_size=20, max_overflow=10, pool_pre_ping=True
        )
        self.sessions = async_sessionmaker(self.engine, class_=AsyncSession, expire_on_commit=False)

    @asynccontextmanager
    async def session(self):
        async with self.sessions() as session:
            try:
                yield session
                await session.commit()
            except Exception:
                await session.rollback()
                raise

    async def close(self) -> None:
        await self.engine.dispose()


class Repository:
    def __init__(self, database: Database) -> None:
        self.database = database

    async def get_by_id(self, user_id: int) -> User | None:
        async with self.database.session() as session:
            result = await session.execute(select(User).where(User.id == user_id))
            return result.scalar_one_or_none()

    async def get_all(self, limit: int = 100) -> list[User]:
        async with self.database.session() as session:
            result = await session.execute(select(User).order_by(User.id).limit(limit))
            return list(result.scalars().all())

    async def create(self, data: dict) -> User:
        async with self.database.session() as session:
            user = User(**data)
            session.add(user)
            await session.flush()
            return user

    async def change(self, user_id: int, data: dict) -> User:
        async with self.database.session() as session:
            statement = update(User).where(User.id == user_id).values(**data).returning(User)
            return (await session.execute(statement)).scalar_one()

    async def remove(self, user_id: int) -> bool:
        async with self.database.session() as session:
            result = await session.execute(delete(User).where(User.id == user_id))
            return result.rowcount > 0


async def bulk_insert(database: Database, users: list[dict]) -> None:
    async with database.session() as session:
        session.add_all([User(**data) for data in users])


async def bulk_update(database: Database, updates: list[dict]) -> None:
    async with database.session() as session:
        for change in updates:
            statement = update(User).where(User.id == change["id"]).values(**change["data"])
            await session.execute(statement)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = f"sqlite+aiosqlite:///{folder}/guide.sqlite"
        database = Database(os.environ.get("AIOXIDE_GUIDE_DATABASE", file))
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        users = Repository(database)
        print(await users.create({"name": "Alice", "age": 30}), await users.get_by_id(1))
        print(await users.get_by_id(99), await users.change(1, {"age": 31}))
        try:
            await users.change(99, {"age": 1})
        except NoResultFound as error:
            print(f"nobody to change: {error}")
        try:
            await users.create({"name": "Alice"})
        except IntegrityError:
            print("there is an Alice already")
        await bulk_insert(database, [{"name": f"user {n}", "age": n} for n in range(50)])
        await bulk_update(database, [{"id": n, "data": {"age": 7 * n}} for n in range(2, 52)])
        print(await users.get_all(limit=60))
        print(await asyncio.gather(*(users.get_by_id(n) for n in range(1, 20))))
        print(await users.remove(1), await users.remove(1))
        await database.close()


asyncio.run(main())
print("end")
